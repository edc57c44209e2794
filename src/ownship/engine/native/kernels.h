// Vectors, matrix products and attention. Written with the compiler's portable vectors; AMX and VNNI where the machine has them.
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

enum Format { F32 = 0, BF16 = 1, INT8 = 2 };

constexpr int UNIT = 32;   // columns of a product that one piece of work computes
constexpr int GROUP = 64;  // weights that share a scale in int8
constexpr int SLOTS = 16;  // tokens in a block of the cache
constexpr int TOGETHER = 4;  // tokens whose attention is computed together

template <class T> static inline T load(const void* p) { T x; std::memcpy(&x, p, sizeof x); return x; }
template <class T> static inline void store(void* p, const T& x) { std::memcpy(p, &x, sizeof x); }
static inline float from_bits(uint32_t bits) { return load<float>(&bits); }
static inline v16 splat(float x) { return x - v16{}; }
static inline int up(int n, int to) { return (n + to - 1) / to * to; }

static inline float sum(v16 x) {
    float y[16]; store(y, x);
    for (int width = 8; width; width /= 2) for (int i = 0; i < width; i++) y[i] += y[i + width];
    return y[0];
}
static inline float largest(v16 x) {
    float y[16]; store(y, x);
    for (int width = 8; width; width /= 2) for (int i = 0; i < width; i++) y[i] = y[i] > y[i + width] ? y[i] : y[i + width];
    return y[0];
}
static inline v16 max(v16 a, v16 b) { return a > b ? a : b; }

static inline h16 narrow(v16 x) {  // to bf16, round to nearest even
    u16v bits = (u16v)x;
    bits += 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector(bits >> 16, h16);
}
static inline v16 widen(h16 x) { return (v16)(__builtin_convertvector(x, u16v) << 16); }
static inline v16 fetch(const float* p) { return load<v16>(p); }
static inline v16 fetch(const uint16_t* p) { return widen(load<h16>(p)); }
static inline void put(float* p, float x) { *p = x; }
static inline void put(uint16_t* p, float x) {
    uint32_t bits = load<uint32_t>(&x);
    *p = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline v16 exponential(v16 x) {  // e^x for x <= 0, relative error 2e-7; 0 below -87
    v16 clamped = x < -87.f ? splat(-87.f) : x;
    v16 n = clamped * 1.44269504f;
    i16v whole = __builtin_convertvector(n - 0.5f, i16v);  // towards zero: nearest, as x <= 0
    v16 k = __builtin_convertvector(whole, v16);
    v16 r = clamped - k * 0.693359375f - k * -2.12194440e-4f;
    v16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * r * r + r + 1.0f;
    v16 y = p * (v16)((whole + 127) << 23);
    return x < -87.f ? v16{} : y;
}
static inline v16 silu(v16 x) {  // x / (1 + e^-x)
    v16 e = exponential(x < 0.f ? x : -x);
    return x * (x < 0.f ? e : splat(1.f)) / (1.f + e);
}

// ---------------------------------------------------------------- who does what

// Pieces 0 to count - 1, shared by all threads: each goes through its own stretch in order, so that memory is read ahead, and
// then helps the others.
class Pieces {
    std::atomic<int>* const taken;  // [threads], zero at first
    const int threads, count, width;
    int whose, helped = 0;
public:
    Pieces(std::atomic<int>* taken, int threads, int thread, int count, int width)
        : taken(taken), threads(threads), count(count), width(width), whose(thread) {}
    int next() {  // the first of `width` pieces (fewer at the end of a stretch: see end()), or -1
        for (; helped < threads; helped++, whose = (whose + 1) % threads) {
            int at = begin(whose) + taken[whose].fetch_add(width);
            if (at < begin(whose + 1)) return at;
        }
        return -1;
    }
    int end() const { return begin(whose + 1); }  // of the stretch that next() came from
private:
    int begin(int thread) const { return int(int64_t(count) * thread / threads); }
};

static inline void ahead(const void* p, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)p + i, 0, 3);
}

// ---------------------------------------------------------------- matrix products

constexpr int AHEAD = 6144;  // bytes of weights that are asked for before they are needed

struct Matrix {  // packed: units of 32 columns; see pack()
    const void* data;
    const float* scales;  // int8: [units][k / 64][32]
    int32_t n, k;  // outputs, inputs
};

constexpr int BYTES = 3;

struct Rows {  // the left side of a product: [M (padded to 32)][ld] in float32, bf16, or for int8 weights 16 bits
    void* data;    // with AMX and at least BYTES rows these as two bytes, high and low: [M / 8][8 rows of high, 8 of low][ld]
    float* scales;  // int8: [M][ld / 64]
    int ld;
};

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
constexpr bool AMX = true;
#else
constexpr bool AMX = false;
#endif

// F32: [n/32][k][32]. BF16: [n/32][k/32][2 tiles][16 pairs][16 columns][2]. INT8: [n/32][k/2][32 columns][2], with AMX
// [n/32][k/64][2 tiles][16 fours][16 columns][4].
static inline size_t unit_bytes(Format format, int k) {
    return format == F32 ? size_t(k) * UNIT * 4 : format == BF16 ? size_t(up(k, 32)) * UNIT * 2 : size_t(up(k, GROUP)) * UNIT;
}

template <int M, int U>
static void product_f32(const float* a, int lda, const float* b, size_t step, int k, float* c) {
    v16 sums[M][2 * U] = {};
    for (int begin = 0; begin < k; begin += GROUP) {  // sums of sums: a tenth of the rounding error of one long sum
        v16 part[M][2 * U] = {};
        for (int i = begin; i < k && i < begin + GROUP; i++)
            for (int u = 0; u < U; u++) {
                v16 left = load<v16>(b + u * step + i * UNIT), right = load<v16>(b + u * step + i * UNIT + 16);
                for (int m = 0; m < M; m++) {
                    float x = a[size_t(m) * lda + i];
                    part[m][2 * u] += x * left;
                    part[m][2 * u + 1] += x * right;
                }
            }
        for (int m = 0; m < M; m++) for (int u = 0; u < 2 * U; u++) sums[m][u] += part[m][u];
    }
    for (int u = 0; u < U; u++) for (int m = 0; m < M; m++) for (int s = 0; s < 2; s++)
        store(c + (u * M + m) * UNIT + s * 16, sums[m][2 * u + s]);
}

// sums += the products of four inputs for each of 16 columns; AMX's order of weights, [16 columns][4]
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
static inline i16v fours(i16v sums, const int8_t* weights, const int16_t* x) {
    __m512i w = _mm512_loadu_si512(weights);
    // bytes 0 and 1 (then 2 and 3) of each column to the upper halves of its two words, and down again: sign-extended
    const __m512i first = _mm512_set4_epi32(0x0d800c80, 0x09800880, 0x05800480, 0x01800080);
    const __m512i second = _mm512_set4_epi32(0x0f800e80, 0x0b800a80, 0x07800680, 0x03800280);
    __m512i low = _mm512_srai_epi16(_mm512_shuffle_epi8(w, first), 8), high = _mm512_srai_epi16(_mm512_shuffle_epi8(w, second), 8);
    __m512i result = _mm512_dpwssd_epi32((__m512i)sums, low, _mm512_set1_epi32(load<int32_t>(x)));
    return (i16v)_mm512_dpwssd_epi32(result, high, _mm512_set1_epi32(load<int32_t>(x + 2)));
}
#endif

static inline i16v pairs(i16v sums, const int8_t* weights, const int16_t* x) {  // sums += two products per column
    int32_t pair = load<int32_t>(x);
#ifdef __AVX512VNNI__
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)weights));
    return (i16v)_mm512_dpwssd_epi32((__m512i)sums, w, _mm512_set1_epi32(pair));
#else
    for (int i = 0; i < 16; i++) sums[i] += weights[2 * i] * int16_t(pair) + weights[2 * i + 1] * int16_t(pair >> 16);
    return sums;
#endif
}

template <int M, int U>
static void product_int8(const int16_t* a, const float* scale, int lda, const int8_t* b, const float* w, size_t step, int k,
                         float* c) {
    v16 sums[M][2 * U] = {};
    int groups = up(k, GROUP) / GROUP;
    for (int g = 0; g < groups; g++) {
        i16v exact[M][2 * U] = {};  // 64 products of 8 by 16 bits fit
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
        for (int u = 0; u < U; u++) ahead(b + u * step + g * 2048 + AHEAD, 2048);
        for (int i = 0; i < GROUP; i += 4)
            for (int u = 0; u < U; u++) for (int s = 0; s < 2; s++) for (int m = 0; m < M; m++)
                exact[m][2 * u + s] = fours(exact[m][2 * u + s], b + u * step + g * 2048 + s * 1024 + i * 16,
                                            a + size_t(m) * lda + g * GROUP + i);
#else
        for (int i = g * GROUP; i < (g + 1) * GROUP; i += 2)
            for (int u = 0; u < U; u++) for (int s = 0; s < 2; s++) for (int m = 0; m < M; m++)
                exact[m][2 * u + s] = pairs(exact[m][2 * u + s], b + u * step + i * UNIT + s * 32, a + size_t(m) * lda + i);
#endif
        for (int u = 0; u < U; u++) for (int s = 0; s < 2; s++) {
            v16 width = load<v16>(w + (size_t(u) * groups + g) * UNIT + s * 16);
            for (int m = 0; m < M; m++)
                sums[m][2 * u + s] += __builtin_convertvector(exact[m][2 * u + s], v16) * (width * scale[m * (lda / GROUP) + g]);
        }
    }
    for (int u = 0; u < U; u++) for (int m = 0; m < M; m++) for (int s = 0; s < 2; s++)
        store(c + (u * M + m) * UNIT + s * 16, sums[m][2 * u + s]);
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
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

// c [32][32]. Meanwhile `each` bytes a step are asked for from `later` on, for the second cache.
static void product_amx_2x2(const uint16_t* a, int lda, const uint16_t* b, int steps, const char* later, int each, float* c) {
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (int k = 0; k < steps; k++, a += 32, b += 1024) {
        for (int i = 0; i < each; i += 64) __builtin_prefetch(later + k * each + i, 0, 2);
        _tile_loadd(4, a, lda * 2); _tile_loadd(5, a + 16 * lda, lda * 2);
        _tile_loadd(6, b, 64); _tile_loadd(7, b + 512, 64);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 128); _tile_stored(1, c + 16, 128); _tile_stored(2, c + 512, 128); _tile_stored(3, c + 528, 128);
}

static void product_amx_1x4(const uint16_t* a, int lda, const uint16_t* b, size_t step, int steps, float* c) {  // c [2][16][32]
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (int k = 0; k < steps; k++, a += 32, b += 1024) {
        ahead((const char*)b + AHEAD, 2048);
        ahead((const char*)(b + step) + AHEAD, 2048);
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(5, b, 64); _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, b + 512, 64); _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, b + step, 64); _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, b + step + 512, 64); _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, c, 128); _tile_stored(1, c + 16, 128); _tile_stored(2, c + 512, 128); _tile_stored(3, c + 528, 128);
}

// Exact sums of 16 columns over 64 inputs, of rows as high and low bytes: (256 high + low) · scales is added to c [M][32].
static void add_exact(const int32_t* exact, int rows, v16 width, const float* scale, int groups, float* c) {
    for (int m = 0; m < rows; m++) {
        i16v whole = (load<i16v>(exact + m * 16) << 8) + load<i16v>(exact + (m + 8) * 16);
        v16 before = load<v16>(c + m * UNIT);
        before += __builtin_convertvector(whole, v16) * (width * scale[m * groups]);
        store(c + m * UNIT, before);
    }
}

// c [M][32], M at most 64; the same to the last bit as product_int8. Work is a list of steps of four tiles: two groups for the same
// eight rows, or one group for sixteen rows. The sums of a step are added up while the next is being multiplied.
static void product_amx_int8(const int8_t* a, const float* scale, int lda, const int8_t* b, const float* w, int k, int M, float* c) {
    alignas(64) int32_t exact[2][4][256];
    const int groups = up(k, GROUP) / GROUP, per_row = lda / GROUP;
    const bool few = M <= 8;
    const int blocks = few ? 1 : (M + 15) / 16, steps = few ? (groups + 1) / 2 : groups * blocks;
    std::memset(c, 0, size_t(M) * UNIT * 4);
    auto add = [&](int step) {
        for (int i = 0; i < 4; i++) {
            int g = few ? step * 2 + i / 2 : step / blocks, first = few ? 0 : step % blocks * 16 + i / 2 * 8;
            int rows = M - first < 8 ? M - first : 8;
            if (g < groups && rows > 0)
                add_exact(exact[step % 2][i], rows, load<v16>(w + g * UNIT + i % 2 * 16), scale + size_t(first) * per_row + g, per_row,
                          c + first * UNIT + i % 2 * 16);
        }
    };
    for (int step = 0; step < steps; step++) {
        int32_t (*out)[256] = exact[step % 2];
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        if (few) {
            const int8_t* weights = b + size_t(step) * 4096;
            bool two = step * 2 + 1 < groups;
            ahead(weights + AHEAD, 4096);
            _tile_loadd(4, a + step * 2 * GROUP, lda);
            _tile_loadd(6, weights, 64); _tile_loadd(7, weights + 1024, 64);
            _tile_dpbssd(0, 4, 6); _tile_dpbssd(1, 4, 7);
            if (two) {
                _tile_loadd(5, a + (step * 2 + 1) * GROUP, lda);
                _tile_loadd(6, weights + 2048, 64); _tile_loadd(7, weights + 3072, 64);
                _tile_dpbssd(2, 5, 6); _tile_dpbssd(3, 5, 7);
            }
        } else {
            const int8_t* rows = a + size_t(step % blocks) * 32 * lda + step / blocks * GROUP;
            const int8_t* weights = b + size_t(step / blocks) * 2048;
            _tile_loadd(6, weights, 64); _tile_loadd(7, weights + 1024, 64);
            _tile_loadd(4, rows, lda); _tile_loadd(5, rows + 16 * lda, lda);
            _tile_dpbssd(0, 4, 6); _tile_dpbssd(1, 4, 7); _tile_dpbssd(2, 5, 6); _tile_dpbssd(3, 5, 7);
        }
        if (step) add(step - 1);
        _tile_stored(0, out[0], 64); _tile_stored(1, out[1], 64); _tile_stored(2, out[2], 64); _tile_stored(3, out[3], 64);
    }
    add(steps - 1);
}
#else
struct Tiles {
    void for_matrices() {}
    void for_attention() {}
};
#endif

template <int M, int U>
static void product_bf16(const uint16_t* a, int lda, const uint16_t* b, size_t step, int k, float* c) {  // without AMX
    v16 sums[M][2 * U] = {};
    for (int i = 0; i < up(k, 32); i += 2)
        for (int u = 0; u < U; u++) for (int s = 0; s < 2; s++) {
            // pair p of tile s: 16 columns of (even, odd)
            u16v both = load<u16v>(b + u * step + (i / 32) * 1024 + s * 512 + (i % 32) / 2 * 32);
            v16 even = (v16)(both << 16), odd = (v16)(both & 0xffff0000u);
            for (int m = 0; m < M; m++) {
                uint32_t pair = load<uint32_t>(a + size_t(m) * lda + i);
                float first = from_bits(pair << 16), second = from_bits(pair & 0xffff0000u);
                sums[m][2 * u + s] += first * even;
                sums[m][2 * u + s] += second * odd;
            }
        }
    for (int u = 0; u < U; u++) for (int m = 0; m < M; m++) for (int s = 0; s < 2; s++)
        store(c + (u * M + m) * UNIT + s * 16, sums[m][2 * u + s]);
}

// rows [M] times one matrix, by all threads; `done(m, unit, c)` gets 32 results of a row.
template <class Share, class Done>
static void multiply(Format format, const Rows& a, int M, const Matrix& w, Share share, Done done) {
    alignas(64) float c[64 * UNIT];
    int units = up(w.n, UNIT) / UNIT;
    size_t bytes = unit_bytes(format, w.k);
    const char* data = (const char*)w.data;
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
    if (format == INT8 && M >= BYTES) {
        int groups = a.ld / GROUP;
        Pieces pieces = share(units, 1);
        for (int u; (u = pieces.next()) >= 0;)
            for (int m0 = 0; m0 < M; m0 += 64) {
                int rows = M - m0 < 64 ? M - m0 : 64;
                product_amx_int8((const int8_t*)a.data + size_t(m0) * 2 * a.ld, a.scales + size_t(m0) * groups, a.ld,
                                 (const int8_t*)(data + u * bytes), w.scales + size_t(u) * (up(w.k, GROUP) / GROUP) * UNIT, w.k, rows, c);
                for (int m = 0; m < rows; m++) done(m0 + m, u, c + m * UNIT);
            }
        return;
    }
    if (format == BF16) {
        const uint16_t* x = (const uint16_t*)a.data;
        int steps = up(w.k, 32) / 32;
        if (M <= 16) {
            Pieces pieces = share(units, 2);
            for (int u; (u = pieces.next()) >= 0;) {
                bool two = u + 1 < pieces.end();
                product_amx_1x4(x, a.ld, (const uint16_t*)(data + u * bytes), two ? bytes / 2 : 0, steps, c);
                for (int s = 0; s <= two; s++) for (int m = 0; m < M; m++) done(m, u + s, c + (s * 16 + m) * UNIT);
            }
        } else {
            Pieces pieces = share(units, 1);
            int each = up(2048 / ((M + 31) / 32), 64);
            for (int u; (u = pieces.next()) >= 0;)
                for (int m0 = 0; m0 < M; m0 += 32) {  // and of the next unit, each time a part is asked for
                    product_amx_2x2(x + size_t(m0) * a.ld, a.ld, (const uint16_t*)(data + u * bytes), steps,
                                    data + (u + 1) * bytes + size_t(m0 / 32) * each * steps, each, c);
                    for (int m = m0; m < M && m < m0 + 32; m++) done(m, u, c + (m - m0) * UNIT);
                }
        }
        return;
    }
#endif
    // few rows: several units at once, as many sums must be under way as the adder is deep
    auto run = [&](auto rows, auto width, int m0, int u) {
        constexpr int R = decltype(rows)::value, U = decltype(width)::value;
        const char* b = data + u * bytes;
        if (format == F32)
            product_f32<R, U>((const float*)a.data + size_t(m0) * a.ld, a.ld, (const float*)b, bytes / 4, w.k, c);
        else if (format == BF16)
            product_bf16<R, U>((const uint16_t*)a.data + size_t(m0) * a.ld, a.ld, (const uint16_t*)b, bytes / 2, w.k, c);
        else
            product_int8<R, U>((const int16_t*)a.data + size_t(m0) * a.ld, a.scales + size_t(m0) * (a.ld / GROUP), a.ld,
                               (const int8_t*)b, w.scales + size_t(u) * (up(w.k, GROUP) / GROUP) * UNIT, bytes, w.k, c);
        for (int s = 0; s < U; s++) for (int m = 0; m < R; m++) done(m0 + m, u + s, c + (s * R + m) * UNIT);
    };
    auto all = [&](auto width, int u) {
        int m = 0;
        for (; m + 4 <= M; m += 4) run(std::integral_constant<int, 4>(), width, m, u);
        for (; m < M; m++) run(std::integral_constant<int, 1>(), width, m, u);
    };
    int width = M < 4 ? 4 : 1;
    Pieces pieces = share(units, width);
    for (int u; (u = pieces.next()) >= 0;) {
        if (width == 4 && u + 4 <= pieces.end()) all(std::integral_constant<int, 4>(), u);
        else for (int v = u; v < u + width && v < pieces.end(); v++) all(std::integral_constant<int, 1>(), v);
    }
}

// ---------------------------------------------------------------- attention over the blocks of the cache

// keys [E][16 slots] and values [16 slots][E] of one block and head; queries [R][E] in float32.
template <int R, int B, class T>
static void scores_of(const float* q, int size, const T* const* keys, const T* const* values, bool more, float* const* out) {
    v16 sums[R][B] = {};  // goes to out[r] + 16 b. The next keys, and these tokens' values, are asked for meanwhile
    if (R <= 3) for (int b = 0; b < B; b++) {
        if (more) ahead(keys[B + b], size * SLOTS * sizeof(T));
        ahead(values[b], size * SLOTS * sizeof(T));
    }
    for (int e = 0; e < size; e++)
        for (int b = 0; b < B; b++) {
            v16 key = fetch(keys[b] + e * SLOTS);
            for (int r = 0; r < R; r++) sums[r][b] += q[r * size + e] * key;
        }
    for (int r = 0; r < R; r++) for (int b = 0; b < B; b++) store(out[r] + b * SLOTS, sums[r][b]);
}

template <int R, int W, class T>
static void values_of(const float* const* weights, int slots, const T* values, int size, float* out) {  // out [R][size] +=
    v16 sums[R][W];
    for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) sums[r][w] = load<v16>(out + r * size + w * 16);
    for (int t = 0; t < slots; t++)
        for (int w = 0; w < W; w++) {
            v16 value = fetch(values + t * size + w * 16);
            for (int r = 0; r < R; r++) sums[r][w] += weights[r][t] * value;
        }
    for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) store(out + r * size + w * 16, sums[r][w]);
}

// The same over a cache in bf16, with AMX: keys [E/2][16 slots][2] and values [8 pairs of slots][E][2]. Queries and weights go in as
// two bf16 numbers each, their sum exact to 16 bits, in rows 0 to 7 and 8 to 15 of a tile: at most 8 rows, at no cost.
#if defined(__AMX_BF16__) && defined(__AMX_INT8__)

static void split(const float* x, int n, uint16_t* high, uint16_t* low) {  // n a multiple of 16
    for (int i = 0; i < n; i += 16) {
        v16 y = load<v16>(x + i);
        h16 top = narrow(y);
        store(high + i, top);
        store(low + i, narrow(y - widen(top)));
    }
}

// q [rows][E] → out[r] + 16 b for each block b
static void tile_scores(const float* q, int rows, int size, const uint16_t* const* keys, const uint16_t* const* values, int blocks,
                        float* const* out) {
    alignas(64) uint16_t tile[16 * 512];
    alignas(64) float c[4][256];
    std::memset(tile, 0, 16 * size * 2);
    for (int r = 0; r < rows; r++) split(q + r * size, size, tile + r * size, tile + (8 + r) * size);
    for (int b = 0; b < blocks; b += 4) {
        int n = blocks - b < 4 ? blocks - b : 4;
        for (int i = 0; i < n; i++) {
            if (b + 4 + i < blocks) ahead(keys[b + 4 + i], size * SLOTS * 2);
            ahead(values[b + i], size * SLOTS * 2);
        }
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        for (int e = 0; e < size; e += 32) {
            _tile_loadd(4, tile + e, size * 2);
            _tile_loadd(5, keys[b] + e * 16, 64); _tile_dpbf16ps(0, 4, 5);
            if (n > 1) { _tile_loadd(5, keys[b + 1] + e * 16, 64); _tile_dpbf16ps(1, 4, 5); }
            if (n > 2) { _tile_loadd(5, keys[b + 2] + e * 16, 64); _tile_dpbf16ps(2, 4, 5); }
            if (n > 3) { _tile_loadd(5, keys[b + 3] + e * 16, 64); _tile_dpbf16ps(3, 4, 5); }
        }
        _tile_stored(0, c[0], 64); _tile_stored(1, c[1], 64); _tile_stored(2, c[2], 64); _tile_stored(3, c[3], 64);
        for (int i = 0; i < n; i++) for (int r = 0; r < rows; r++)
            store(out[r] + (b + i) * SLOTS, load<v16>(c[i] + r * 16) + load<v16>(c[i] + (8 + r) * 16));
    }
}

// weights[r] [16 blocks] · values, added to sums [rows][2][E] (of high and of low); `room` for 16 rows of weights
static void tile_values(const float* const* weights, int rows, int size, const uint16_t* const* values, int blocks, float* sums,
                        uint16_t* room) {
    alignas(64) float c[4][256];
    int slots = blocks * SLOTS;
    for (int r = 0; r < 8; r++) {
        if (r < rows) split(weights[r], slots, room + size_t(r) * slots, room + size_t(8 + r) * slots);
        else {
            std::memset(room + size_t(r) * slots, 0, slots * 2);
            std::memset(room + size_t(8 + r) * slots, 0, slots * 2);
        }
    }
    for (int e = 0; e < size; e += 64) {
        int n = size - e < 64 ? (size - e) / 16 : 4;
        std::memset(c, 0, sizeof c);
        for (int i = 0; i < n; i++) for (int r = 0; r < rows; r++) for (int s = 0; s < 2; s++)
            store(c[i] + (8 * s + r) * 16, load<v16>(sums + (r * 2 + s) * size + e + i * 16));
        _tile_loadd(0, c[0], 64); _tile_loadd(1, c[1], 64); _tile_loadd(2, c[2], 64); _tile_loadd(3, c[3], 64);
        for (int b = 0; b < blocks; b++) {
            const uint16_t* here = values[b] + e * 2;
            _tile_loadd(6, room + b * SLOTS, slots * 2);
            _tile_loadd(7, here, size * 4); _tile_dpbf16ps(0, 6, 7);
            if (n > 1) { _tile_loadd(7, here + 32, size * 4); _tile_dpbf16ps(1, 6, 7); }
            if (n > 2) { _tile_loadd(7, here + 64, size * 4); _tile_dpbf16ps(2, 6, 7); }
            if (n > 3) { _tile_loadd(7, here + 96, size * 4); _tile_dpbf16ps(3, 6, 7); }
        }
        _tile_stored(0, c[0], 64); _tile_stored(1, c[1], 64); _tile_stored(2, c[2], 64); _tile_stored(3, c[3], 64);
        for (int i = 0; i < n; i++) for (int r = 0; r < rows; r++) for (int s = 0; s < 2; s++)
            store(sums + (r * 2 + s) * size + e + i * 16, load<v16>(c[i] + (8 * s + r) * 16));
    }
}
#endif

// ---------------------------------------------------------------- drawing a token

constexpr int STRETCH = 256;  // entries of the vocabulary that are summed as one

// e^((x - top) scale) summed over each stretch of a row of logits [n]; returns the whole.
static double stretches_of(const float* x, int n, float top, float scale, double* sums) {
    double total = 0;
    for (int at = 0, i = 0; at < n; at += STRETCH, i++) {
        int end = at + STRETCH < n ? at + STRETCH : n, j = at;
        v16 part{};
        for (; j + 16 <= end; j += 16) part += exponential((load<v16>(x + j) - top) * scale);
        double stretch = sum(part);
        for (; j < end; j++) stretch += exponential(splat((x[j] - top) * scale))[0];
        total += sums[i] = stretch;
    }
    return total;
}

// One token by inverse CDF, greedily if `scale` (one over the temperature) is 0; its log-probability at temperature 1.
static void draw(const float* x, int n, float scale, double uniform, double* sums, int32_t* id, double* logprob) {
    v16 high = splat(-INFINITY);
    int j = 0;
    for (; j + 16 <= n; j += 16) high = max(high, load<v16>(x + j));
    float top = largest(high);
    for (; j < n; j++) top = top > x[j] ? top : x[j];
    double raw = stretches_of(x, n, top, 1, sums), total = raw;
    if (scale == 0) {
        *id = 0;
        for (int i = 0; i < n; i++) if (x[i] == top) { *id = i; break; }
    } else {
        if (scale != 1) total = stretches_of(x, n, top, scale, sums);
        double level = std::fmin(uniform * total, std::nextafter(total, 0.0)), before = 0;
        int last = (n - 1) / STRETCH, i = 0;
        while (i < last && before + sums[i] <= level) before += sums[i++];
        while (i > 0 && sums[i] == 0) before -= sums[--i];  // rounding led past the last that has any weight
        int found = -1;
        for (int k = i * STRETCH; k < n && k < (i + 1) * STRETCH; k++) {
            float weight = exponential(splat((x[k] - top) * scale))[0];
            if (weight > 0) found = k;
            before += weight;
            if (weight > 0 && before > level) break;
        }
        *id = found;
    }
    *logprob = double(x[*id]) - top - std::log(raw);
}
