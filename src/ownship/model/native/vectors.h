// Vectors of 16 numbers, and the functions of them that the kernels share: one of the processor's vectors where it has such, else
// two (AVX) or four (SSE) side by side, each in a register. (Left to the compiler, vectors wider than the processor's go through
// memory: twenty times slower, docs/log.md.)
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
#include <type_traits>

#if defined(__AVX512F__)
#define BYTES_OF_A_REGISTER 64
#elif defined(__AVX2__)
#define BYTES_OF_A_REGISTER 32
#else
#define BYTES_OF_A_REGISTER 16
#endif
constexpr bool WIDE = BYTES_OF_A_REGISTER == 64;  // 32 registers of 16 numbers; else 16 registers of 8 or 4

typedef uint16_t h16 __attribute__((vector_size(32)));
typedef int16_t s16 __attribute__((vector_size(32)));
typedef int8_t b16 __attribute__((vector_size(16)));

// ---- vectors of 16 as halves side by side

template <class V> struct Two {
    V low, high;
    auto operator[](int i) const { return low[i]; }  // of the lower half only
};
template <class T> constexpr bool HALVED = false;
template <class V> constexpr bool HALVED<Two<V>> = true;
template <class V> struct Element { using type = std::decay_t<decltype(V{}[0])>; };
#define EACH(op) \
    template <class V> static inline Two<V> operator op(Two<V> a, Two<V> b) { return {a.low op b.low, a.high op b.high}; } \
    template <class V> static inline Two<V> operator op(Two<V> a, typename Element<V>::type b) { return {a.low op b, a.high op b}; } \
    template <class V> static inline Two<V> operator op(typename Element<V>::type a, Two<V> b) { return {a op b.low, a op b.high}; }
EACH(+) EACH(-) EACH(*) EACH(/) EACH(&) EACH(<<) EACH(>>)
#undef EACH
template <class V> static inline Two<V> operator-(Two<V> a) { return {-a.low, -a.high}; }
template <class V, class X> static inline Two<V>& operator+=(Two<V>& a, X b) { return a = a + b; }

typedef float Floats __attribute__((vector_size(BYTES_OF_A_REGISTER)));
typedef int32_t Ints __attribute__((vector_size(BYTES_OF_A_REGISTER)));
typedef uint32_t Words __attribute__((vector_size(BYTES_OF_A_REGISTER)));
template <class V> using Sixteen = std::conditional_t<sizeof(V) == 64, V, std::conditional_t<sizeof(V) == 32, Two<V>, Two<Two<V>>>>;
typedef Sixteen<Floats> v16;
typedef Sixteen<Ints> i16v;
typedef Sixteen<Words> u16v;

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define WITH_AMX 1
#else
#define WITH_AMX 0
#endif
constexpr bool AMX = WITH_AMX;

enum Format { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

constexpr int UNIT = 32;   // columns of a product that one piece of work computes
constexpr int GROUP = 64;  // weights that share a scale in int8, and in fixed point
constexpr int FINE = 32;   // weights, and inputs, that do in int4
constexpr int SLOTS = 16;  // tokens in a block of the cache

// AVX2 without AVX-512 multiplies 16-bit integers twice as fast as float32, and bf16 not at all: there products of bf16 are made in fixed
// point, with one scale for 64 numbers along the summed dimension ("block floating point", Drumond et al. 2018, arXiv:1804.01526).
// A number is rounded to 1/5792 of its block's largest, where bf16 rounds to 1/256 of itself; 64 products fit into 31 bits.
constexpr bool FIXED = BYTES_OF_A_REGISTER == 32;
constexpr float MOST = 5792;

template <class T> static inline T load(const void* p) {
    if constexpr (HALVED<T>) {
        using V = decltype(T::low);
        return {load<V>(p), load<V>((const char*)p + sizeof(V))};
    } else {
        T x;
        std::memcpy(&x, p, sizeof x);
        return x;
    }
}
template <class T> static inline void store(void* p, const T& x) {
    if constexpr (HALVED<T>) {
        store(p, x.low);
        store((char*)p + sizeof x.low, x.high);
    } else std::memcpy(p, &x, sizeof x);
}
static inline float from_bits(uint32_t bits) { return load<float>(&bits); }
static inline v16 splat(float x) { return x - v16{}; }
static inline int up(int n, int to) { return (n + to - 1) / to * to; }

// ---- what each register does, and vectors of several by their halves

#if BYTES_OF_A_REGISTER == 64
#define REGISTER(type, wide, middle, narrow) (type)wide
#elif BYTES_OF_A_REGISTER == 32
#define REGISTER(type, wide, middle, narrow) (type)middle
#else
#define REGISTER(type, wide, middle, narrow) (type)narrow
#endif
static inline Floats max(Floats a, Floats b) {
    return REGISTER(Floats, _mm512_max_ps((__m512)a, (__m512)b), _mm256_max_ps((__m256)a, (__m256)b), _mm_max_ps((__m128)a, (__m128)b));
}
static inline Ints nearest(Floats x) {  // integers, halves to even
    return REGISTER(Ints, _mm512_cvtps_epi32((__m512)x), _mm256_cvtps_epi32((__m256)x), _mm_cvtps_epi32((__m128)x));
}
#undef REGISTER
static inline Floats floats(Ints x) { return __builtin_convertvector(x, Floats); }
static inline Floats as_floats(Words bits) { return (Floats)bits; }
static inline Words as_words(Floats x) { return (Words)x; }
static inline Words as_words(Ints x) { return (Words)x; }
static inline Floats if_less(Floats x, float limit, Floats yes, Floats no) { return x < limit ? yes : no; }

template <class V> static inline Two<V> max(Two<V> a, Two<V> b) { return {max(a.low, b.low), max(a.high, b.high)}; }
template <class V> static inline auto nearest(Two<V> x) { return Two<decltype(nearest(x.low))>{nearest(x.low), nearest(x.high)}; }
template <class V> static inline auto floats(Two<V> x) { return Two<decltype(floats(x.low))>{floats(x.low), floats(x.high)}; }
template <class V> static inline auto as_floats(Two<V> x) { return Two<decltype(as_floats(x.low))>{as_floats(x.low), as_floats(x.high)}; }
template <class V> static inline auto as_words(Two<V> x) { return Two<decltype(as_words(x.low))>{as_words(x.low), as_words(x.high)}; }
template <class V> static inline Two<V> if_less(Two<V> x, float limit, Two<V> yes, Two<V> no) {
    return {if_less(x.low, limit, yes.low, no.low), if_less(x.high, limit, yes.high, no.high)};
}

// Halves onto each other, until one number is left.
template <class F> static inline float fold(Floats x, F f) {
#if BYTES_OF_A_REGISTER == 64
    x = f(x, __builtin_shuffle(x, Ints{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    x = f(x, __builtin_shuffle(x, Ints{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    x = f(x, __builtin_shuffle(x, Ints{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    x = f(x, __builtin_shuffle(x, Ints{1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}));
#elif BYTES_OF_A_REGISTER == 32
    x = f(x, __builtin_shuffle(x, Ints{4, 5, 6, 7, 0, 1, 2, 3}));
    x = f(x, __builtin_shuffle(x, Ints{2, 3, 0, 1, 6, 7, 4, 5}));
    x = f(x, __builtin_shuffle(x, Ints{1, 0, 3, 2, 5, 4, 7, 6}));
#else
    x = f(x, __builtin_shuffle(x, Ints{2, 3, 0, 1}));
    x = f(x, __builtin_shuffle(x, Ints{1, 0, 3, 2}));
#endif
    return x[0];
}
template <class V, class F> static inline float fold(Two<V> x, F f) { return fold(f(x.low, x.high), f); }
static inline float sum(v16 x) { return fold(x, [](auto a, auto b) { return a + b; }); }
static inline float largest(v16 x) { return fold(x, [](auto a, auto b) { return max(a, b); }); }

struct Scale { float scale, inverse; };  // of whole numbers up to `limit`
static inline Scale scale_of(const v16* x, int n, float limit) {  // of n vectors; NaN, and so all results, if one number is not finite
    v16 top{}, odd{};
    for (int i = 0; i < n; i++) { top = max(top, max(x[i], -x[i])); odd += x[i] * 0.f; }
    const float most = largest(top);
    return {most / limit + sum(odd), most > 0 ? limit / most : 0};
}
template <class V> static inline V in_order(V sums) {  // or the compiler makes more products before it adds them than there are registers
    asm("" : "+x"(sums));
    return sums;
}

static inline s16 shorts(i16v x) {  // of numbers that fit
#if BYTES_OF_A_REGISTER == 64
    return __builtin_convertvector(x, s16);
#elif BYTES_OF_A_REGISTER == 32
    return (s16)_mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)x.low, (__m256i)x.high), 0xd8);
#else
    s16 y;
    store(&y, _mm_packs_epi32((__m128i)x.low.low, (__m128i)x.low.high));
    store((char*)&y + 16, _mm_packs_epi32((__m128i)x.high.low, (__m128i)x.high.high));
    return y;
#endif
}
static inline b16 bytes(i16v x) {  // of numbers that fit
#if BYTES_OF_A_REGISTER == 64
    return __builtin_convertvector(x, b16);
#else
    const s16 y = shorts(x);
    return (b16)_mm_packs_epi16(load<__m128i>(&y), load<__m128i>((const char*)&y + 16));
#endif
}
static inline h16 narrow(v16 x) {  // to bf16, round to nearest even
#ifdef __AVX512BF16__
    return (h16)_mm512_cvtneps_pbh((__m512)x);
#endif
    u16v bits = as_words(x);
    bits += 0x7fff + ((bits >> 16) & 1);
    bits = bits >> 16;
#if BYTES_OF_A_REGISTER == 64
    return __builtin_convertvector(bits, h16);
#elif BYTES_OF_A_REGISTER == 32
    return (h16)_mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)bits.low, (__m256i)bits.high), 0xd8);
#else
    uint32_t all[16];
    store(all, bits);
    h16 y;
    for (int i = 0; i < 16; i++) y[i] = uint16_t(all[i]);
    return y;
#endif
}
static inline v16 widen(h16 x) {
#if BYTES_OF_A_REGISTER == 64
    return (v16)(__builtin_convertvector(x, u16v) << 16);
#elif BYTES_OF_A_REGISTER == 32
    auto half = [](__m128i y) { return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(y), 16); };
    return {half(_mm256_castsi256_si128((__m256i)x)), half(_mm256_extracti128_si256((__m256i)x, 1))};
#else
    const __m128i low = load<__m128i>(&x), high = load<__m128i>((const char*)&x + 16), zero = _mm_setzero_si128();
    return {{(Floats)_mm_unpacklo_epi16(zero, low), (Floats)_mm_unpackhi_epi16(zero, low)},
            {(Floats)_mm_unpacklo_epi16(zero, high), (Floats)_mm_unpackhi_epi16(zero, high)}};
#endif
}
// The first and the second of 16 pairs of bf16 numbers.
static inline v16 first_of(const uint16_t* pairs) { return as_floats(load<u16v>(pairs) << 16); }
static inline v16 second_of(const uint16_t* pairs) { return as_floats(load<u16v>(pairs) & 0xffff0000u); }
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
    i16v whole = nearest(clamped * 1.44269504f);
    v16 k = floats(whole);
#endif
    v16 r = clamped - k * 0.693359375f - k * -2.12194440e-4f;
    v16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * (r * r) + (r + 1.0f);
#ifdef __AVX512F__
    return (v16)_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask((__m512)x, (__m512)splat(-87.f), _CMP_GE_OQ), (__m512)p, (__m512)k);
#else
    return if_less(x, -87.f, v16{}, p * as_floats(as_words((whole + 127) << 23)));
#endif
}
static inline v16 silu(v16 x) {  // x / (1 + e^-x)
    v16 e = exponential(if_less(x, 0.f, x, -x));
    return x * if_less(x, 0.f, e, splat(1.f)) / (1.f + e);
}

static inline void ahead(const void* p, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)p + i, 0, 3);
}

#if WITH_AMX
// The intrinsics do not tell the compiler what memory they read (of settings GCC before 14 knows 8 bytes: its bug 114098), so it
// might store that later. It costs nothing.
static inline void settled() { asm volatile("" ::: "memory"); }

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
    ~Tiles() { if (before.palette) configure(before); else _tile_release(); }
    void for_matrices() { configure(matrices); }
    void for_attention() { configure(attention); }
private:
    static void configure(const TileSettings& to) {
        asm volatile("" ::"m"(to));
        settled();
        _tile_loadconfig(&to);
    }
};
#else
struct Tiles {
    void for_matrices() {}
    void for_attention() {}
};
#endif
