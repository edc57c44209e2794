// The emulated instructions one by one, for a test that knows what they should give; or, on a processor that has them, those.
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern "C" {

int ownship_prepare() {
#if defined(__AMX_BF16__) && defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 1;
#endif
}

// 16 numbers a and b [16]: the larger, the nearest integer, the nearest whole number, a ≥ b ? a · 2^⌊b⌋ : 0
void floats(const float* a, const float* b, float* larger, int32_t* nearest, float* whole, float* scaled) {
    const __m512 x = (__m512)_mm512_loadu_si512(a), y = (__m512)_mm512_loadu_si512(b);
    auto put = [](void* to, const auto& z) { std::memcpy(to, &z, 64); };
    put(larger, _mm512_max_ps(x, y));
    put(nearest, _mm512_cvtps_epi32(x));
    put(whole, _mm512_roundscale_ps(x, 0));
    put(scaled, _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), x, y));
}

// 64 bytes a: shuffled by `places`, and as 32 words shifted to the right by 8; the four integers of `four` four times
void bytes(const int8_t* a, const int8_t* places, const int32_t* four, int8_t* shuffled, int16_t* shifted, int32_t* repeated) {
    auto put = [](void* to, const auto& z) { std::memcpy(to, &z, 64); };
    put(shuffled, _mm512_shuffle_epi8(_mm512_loadu_si512(a), _mm512_loadu_si512(places)));
    put(shifted, _mm512_srai_epi16(_mm512_loadu_si512(a), 8));
    put(repeated, _mm512_set4_epi32(four[3], four[2], four[1], four[0]));
}

#ifdef __AVX512BF16__
void bf16(const float* x, uint16_t* y) {
    const auto z = _mm512_cvtneps_pbh((__m512)_mm512_loadu_si512(x));
    std::memcpy(y, &z, 32);
}

// sums [16] += two products each of words a and b [32]; 32 bytes as words
void words(const int16_t* a, const int16_t* b, int32_t* sums, const int8_t* narrow, int16_t* wide) {
    const __m512i z = _mm512_dpwssd_epi32(_mm512_loadu_si512(sums), _mm512_loadu_si512(a), _mm512_loadu_si512(b));
    std::memcpy(sums, &z, 64);
    const __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)narrow));
    std::memcpy(wide, &w, 64);
}

// sums [16] += four products each of bytes a, without a sign, and b [64]
void fours(const uint8_t* a, const int8_t* b, int32_t* sums) {
    const __m512i z = _mm512_dpbusd_epi32(_mm512_loadu_si512(sums), _mm512_loadu_si512(a), _mm512_loadu_si512(b));
    std::memcpy(sums, &z, 64);
}
#endif

#ifdef __AMX_BF16__
// c [m][n] += a [m][k] b [k][n], rows of c and a and b `apart` bytes from each other; k fours of bytes, of whole numbers or bf16
void product(int m, int n, int k, int is_bf16, const void* a, const void* b, void* c, int apart, uint8_t* settings) {
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } is{};
    is.palette = 1;
    is.bytes[0] = is.bytes[2] = uint16_t(4 * n);
    is.bytes[7] = uint16_t(4 * k);
    is.rows[0] = is.rows[7] = uint8_t(m);
    is.rows[2] = uint8_t(k);
    asm volatile("" ::"m"(is));
    _tile_loadconfig(&is);
    _tile_storeconfig(settings);
    asm volatile("" ::: "memory");
    _tile_zero(0);
    _tile_loadd(7, a, apart);
    _tile_loadd(2, b, apart);
    _tile_loadd(0, c, apart);
    if (is_bf16) _tile_dpbf16ps(0, 7, 2); else _tile_dpbssd(0, 7, 2);
    _tile_stored(0, c, apart);
    _tile_release();
}
#endif

}
