// What AVX-512 was given later: products of bytes and words (VNNI), and bf16. After avx512.h.
#pragma once

namespace emulated {

static inline __m256i to_bf16(__m512 x) {  // to nearest, halves to even; numbers below the normal ones are 0, NaNs stay such
    uint32_t bits[16];
    uint16_t y[16];
    std::memcpy(bits, &x, 64);
    for (int i = 0; i < 16; i++) {
        const uint32_t size = bits[i] & 0x7fffffff;
        if (size < 0x00800000) bits[i] &= 0x80000000;
        else if (size > 0x7f800000) bits[i] |= 0x00400000;
        else bits[i] += 0x7fff + (bits[i] >> 16 & 1);
        y[i] = uint16_t(bits[i] >> 16);
    }
    __m256i result;
    std::memcpy(&result, y, 32);
    return result;
}
static inline __m512i widen(__m256i x) {
    return whole<__m512i>(_mm256_cvtepi8_epi16(half<__m128i>(x, 0)), _mm256_cvtepi8_epi16(half<__m128i>(x, 1)));
}
static inline __m512i add_products(__m512i sums, __m512i a, __m512i b) {
    const __m512i pairs = ints(a, b, [](__m256i x, __m256i y) { return _mm256_madd_epi16(x, y); });
    return ints(sums, pairs, [](__m256i x, __m256i y) { return _mm256_add_epi32(x, y); });
}
static inline __m512i add_bytes(__m512i sums, __m512i a, __m512i b) {  // of a without a sign, b with one
    int32_t z[16];
    uint8_t x[64];
    int8_t y[64];
    std::memcpy(z, &sums, 64);
    std::memcpy(x, &a, 64);
    std::memcpy(y, &b, 64);
    for (int i = 0; i < 64; i++) z[i / 4] = int32_t(uint32_t(z[i / 4]) + uint32_t(x[i] * y[i]));
    std::memcpy(&sums, z, 64);
    return sums;
}

}

#define _mm512_cvtneps_pbh emulated::to_bf16
#define _mm512_cvtepi8_epi16 emulated::widen
#define _mm512_dpwssd_epi32 emulated::add_products
#define _mm512_dpbusd_epi32 emulated::add_bytes

#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
