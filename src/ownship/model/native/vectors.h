// Vectors of 16 numbers, in the compiler's portable form, and the functions of them that the kernels share.
//
// Every result depends on its own row alone: sums run in one fixed order, whatever else is in the batch. So a request draws
// the same tokens alone, in company, read in chunks or in one piece, bit for bit.
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <sched.h>

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int16_t s16 __attribute__((vector_size(32)));
typedef int8_t b16 __attribute__((vector_size(16)));

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define WITH_AMX 1
#else
#define WITH_AMX 0
#endif
constexpr bool AMX = WITH_AMX;

enum Format { F32 = 0, BF16 = 1, INT8 = 2 };

constexpr int UNIT = 32;   // columns of a product that one piece of work computes
constexpr int GROUP = 64;  // weights that share a scale in int8
constexpr int SLOTS = 16;  // tokens in a block of the cache

template <class T> static inline T load(const void* p) { T x; std::memcpy(&x, p, sizeof x); return x; }
template <class T> static inline void store(void* p, const T& x) { std::memcpy(p, &x, sizeof x); }
static inline float from_bits(uint32_t bits) { return load<float>(&bits); }
static inline v16 splat(float x) { return x - v16{}; }
static inline int up(int n, int to) { return (n + to - 1) / to * to; }

template <class F> static inline float fold(v16 x, F f) {  // halves onto each other, until one number is left
    x = f(x, __builtin_shuffle(x, i16v{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    x = f(x, __builtin_shuffle(x, i16v{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    x = f(x, __builtin_shuffle(x, i16v{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    x = f(x, __builtin_shuffle(x, i16v{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}));
    return x[0];
}
static inline v16 max(v16 a, v16 b) {
#ifdef __AVX512F__
    return (v16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
static inline float sum(v16 x) { return fold(x, [](v16 a, v16 b) { return a + b; }); }
static inline float largest(v16 x) { return fold(x, [](v16 a, v16 b) { return max(a, b); }); }

static inline i16v nearest(v16 x) {  // integers, halves to even
#ifdef __AVX512F__
    return (i16v)_mm512_cvtps_epi32((__m512)x);
#else
    i16v y;
    for (int i = 0; i < 16; i++) y[i] = int(__builtin_rintf(x[i]));
    return y;
#endif
}

static inline h16 narrow(v16 x) {  // to bf16, round to nearest even
#ifdef __AVX512BF16__
    return (h16)_mm512_cvtneps_pbh((__m512)x);
#endif
    u16v bits = (u16v)x;
    bits += 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector(bits >> 16, h16);
}
static inline v16 widen(h16 x) { return (v16)(__builtin_convertvector(x, u16v) << 16); }
static inline void put(float* p, float x) { *p = x; }
static inline void put(uint16_t* p, float x) {
    uint32_t bits = load<uint32_t>(&x);
    *p = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline v16 exponential(v16 x) {  // e^x for x <= 0, relative error 2e-7; 0 below -87
    v16 clamped = max(x, splat(-87.f));
#ifdef __AVX512F__
    v16 k = (v16)_mm512_roundscale_ps((__m512)(clamped * 1.44269504f), 0);
#else
    i16v whole = __builtin_convertvector(clamped * 1.44269504f - 0.5f, i16v);  // towards zero: nearest, as x <= 0
    v16 k = __builtin_convertvector(whole, v16);
#endif
    v16 r = clamped - k * 0.693359375f - k * -2.12194440e-4f;
    v16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * (r * r) + (r + 1.0f);
#ifdef __AVX512F__
    return (v16)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)splat(-87.f), _CMP_GE_OQ), (__m512)p, (__m512)k);
#else
    v16 y = p * (v16)((whole + 127) << 23);
    return x < -87.f ? v16{} : y;
#endif
}
static inline v16 silu(v16 x) {  // x / (1 + e^-x)
    v16 e = exponential(x < 0.f ? x : -x);
    return x * (x < 0.f ? e : splat(1.f)) / (1.f + e);
}

static inline void ahead(const void* p, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)p + i, 0, 3);
}

#if WITH_AMX
struct TileSettings { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; };

class Tiles {  // the settings of this thread's tiles; its former ones come back at the end (torch has its own)
    TileSettings before, matrices{}, attention{};
public:
    Tiles() {
        _tile_storeconfig(&before);
        matrices.palette = 1;
        for (int i = 0; i < 8; i++) { matrices.bytes[i] = 64; matrices.rows[i] = 16; }
        attention = matrices;
        attention.bytes[6] = 32;  // weights of 16 slots
        attention.rows[7] = 8;    // values of 16 slots in pairs
        for_matrices();
    }
    ~Tiles() { if (before.palette) _tile_loadconfig(&before); else _tile_release(); }
    void for_matrices() { _tile_loadconfig(&matrices); }
    void for_attention() { _tile_loadconfig(&attention); }
};
#else
struct Tiles {
    void for_matrices() {}
    void for_attention() {}
};
#endif
