// AVX-512 for processors without it: put before a source of the kernels by the compiler (-include), it makes the compiler take the
// branches for AVX-512 and gives them the few intrinsics that they call, each as two of AVX2 that do the same to half a register.
// Everything else there is in the compiler's own vectors, which it takes apart. What they do is Intel's Intrinsics Guide's word.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>  // before the macros: it must not declare anything anew
#include <sched.h>
#include <type_traits>
#include <vector>

namespace emulated {

template <class H, class W> static inline H half(const W& x, int which) {
    H y;
    std::memcpy(&y, (const char*)&x + which * sizeof y, sizeof y);
    return y;
}
template <class W, class H> static inline W whole(H low, H high) {
    W x;
    std::memcpy(&x, &low, sizeof low);
    std::memcpy((char*)&x + sizeof low, &high, sizeof high);
    return x;
}
template <class F> static inline __m512 floats(__m512 a, __m512 b, F f) {
    return whole<__m512>(f(half<__m256>(a, 0), half<__m256>(b, 0)), f(half<__m256>(a, 1), half<__m256>(b, 1)));
}
template <class F> static inline __m512i ints(__m512i a, __m512i b, F f) {
    return whole<__m512i>(f(half<__m256i>(a, 0), half<__m256i>(b, 0)), f(half<__m256i>(a, 1), half<__m256i>(b, 1)));
}

static inline __m512 max(__m512 a, __m512 b) { return floats(a, b, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); }); }
static inline __m512i nearest(__m512 x) {
    return whole<__m512i>(_mm256_cvtps_epi32(half<__m256>(x, 0)), _mm256_cvtps_epi32(half<__m256>(x, 1)));
}
template <int HOW> static inline __m512 round(__m512 x) {
    static_assert(HOW == _MM_FROUND_TO_NEAREST_INT);  // to whole numbers: the upper four bits are a number of binary places
    return floats(x, x, [](__m256 y, __m256) { return _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); });
}
template <int HOW> static inline __mmask16 compare(__m512 a, __m512 b) {
    auto bits = [&](int i) { return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(half<__m256>(a, i), half<__m256>(b, i), HOW))); };
    return __mmask16(bits(0) | bits(1) << 8);
}
static inline __m512 scale_or_zero(__mmask16 mask, __m512 x, __m512 power) {  // x · 2^⌊power⌋, rounded once
    float a[16], b[16];
    std::memcpy(a, &x, 64);
    std::memcpy(b, &power, 64);
    for (int i = 0; i < 16; i++) a[i] = mask >> i & 1 ? std::scalbn(a[i], int(std::floor(b[i]))) : 0.f;
    std::memcpy(&x, a, 64);
    return x;
}
static inline __m512i read(const void* p) {
    __m512i x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
static inline __m512i same(int32_t x) { return whole<__m512i>(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
static inline __m512i same(int d, int c, int b, int a) {
    return whole<__m512i>(_mm256_setr_epi32(a, b, c, d, a, b, c, d), _mm256_setr_epi32(a, b, c, d, a, b, c, d));
}
static inline __m512i shuffle(__m512i x, __m512i places) {
    return ints(x, places, [](__m256i y, __m256i z) { return _mm256_shuffle_epi8(y, z); });
}
static inline __m512i shift_right(__m512i x, int by) {
    return ints(x, x, [&](__m256i y, __m256i) { return _mm256_sra_epi16(y, _mm_cvtsi32_si128(by)); });
}

}

#define _mm512_max_ps emulated::max
#define _mm512_cvtps_epi32 emulated::nearest
#define _mm512_roundscale_ps(x, how) emulated::round<how>(x)
#define _mm512_cmp_ps_mask(a, b, how) emulated::compare<how>(a, b)
#define _mm512_maskz_scalef_ps emulated::scale_or_zero
#define _mm512_loadu_si512 emulated::read
#define _mm512_set1_epi32 emulated::same
#define _mm512_set4_epi32 emulated::same
#define _mm512_shuffle_epi8 emulated::shuffle
#define _mm512_srai_epi16 emulated::shift_right

#define __AVX512F__ 1
#define __AVX512BW__ 1
