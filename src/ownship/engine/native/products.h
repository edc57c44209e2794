// Matrix products: rows of inputs times packed weights in float32, bf16, int8 or int4, shared by all threads.
#pragma once
#include "vectors.h"
#include <algorithm>
#include <type_traits>

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

constexpr int AHEAD = 6144;  // bytes of weights that are asked for before they are needed

constexpr int STRIDE = 16;  // inputs for which weights are asked for at once

struct Prefetch {  // weights that are asked for while others are multiplied, so many of the processor's lines for each stride of inputs
    const char* at;
    int lines;
    void ask(int input) const {  // to the second cache: the first is full of what is multiplied
        for (int i = 0; i < lines; i++) __builtin_prefetch(at + (input / STRIDE * lines + i) * 64, 0, 2);
    }
};

struct Fine {  // int4: 32 inputs of a unit
    uint8_t weights[FINE / 8][UNIT][4];  // of every eight inputs the first four in the lower halves of the bytes
    float scale[UNIT], least[UNIT];      // weight w is least + w scale
};

struct Matrix {  // packed: units of 32 columns; see pack()
    const void* data;
    const float* scales;  // int8 and fixed point: [units][k / 64][32]
    int32_t n, k;  // outputs, inputs
};

constexpr int BYTES = 3;  // rows from which AMX multiplies int8 weights faster than vectors do

struct Rows {  // the left side of a product: [M (padded to 32)][ld] in float32, bf16, for int4 weights 8 bits, for int8 and fixed point 16 bits
    void* data;    // with AMX and at least BYTES rows these as two bytes, high and low: [M / 8][8 rows of high, 8 of low][ld]
    float* scales;  // int8 and fixed point: [M][ld / 64]; int4: [M][ld / 32][2], with the sums of the inputs in float32
    int ld;
};

constexpr bool whole_numbers(Format format) { return format >= INT8 || (FIXED && format == BF16); }

// F32: [n/32][k][32]. BF16: [n/32][k/32][2 tiles][16 pairs][16 columns][2]. In fixed point and INT8: [n/32][k/2][32 columns][2], with AMX
// [n/32][k/64][2 tiles][16 fours][16 columns][4]. INT4: [n/32][k/32][Fine].
static inline size_t unit_bytes(Format format, int k) {
    return format == F32 ? size_t(k) * UNIT * 4 : format == BF16 ? size_t(up(k, FIXED ? GROUP : 32)) * UNIT * 2
         : format == INT8 ? size_t(up(k, GROUP)) * UNIT : size_t(up(k, GROUP) / FINE) * sizeof(Fine);
}

// Where a kernel's vectors lie: R rows times V vectors of 16 columns, from vector `first` of a unit on; two to a unit.
constexpr int TALL = WIDE ? 4 : 6;  // rows of the largest kernel: its sums and what it multiplies are to fit into the registers

// c [V / 2, or 1][R][32]
template <int R, int V> static inline void deliver(const v16 (&sums)[R][V], int first, float* c) {
    for (int v = 0; v < V; v++) for (int m = 0; m < R; m++) store(c + ((v / 2) * R + m) * UNIT + (first + v % 2) * 16, sums[m][v]);
}

template <int R, int V>
[[gnu::noinline]] static void product_f32(const float* a, int lda, const float* b, size_t step, int k, int first, Prefetch soon, float* c) {
    v16 sums[R][V] = {};
    b += first * 16;
    for (int begin = 0; begin < k; begin += GROUP) {  // sums of sums: a tenth of the rounding error of one long sum
        v16 part[R][V] = {};
        for (int i = begin; i < k && i < begin + GROUP; i++) {
            if (i % STRIDE == 0) soon.ask(i);
            v16 w[V];
            for (int v = 0; v < V; v++) w[v] = load<v16>(b + (v / 2) * step + i * UNIT + v % 2 * 16);
            for (int m = 0; m < R; m++) {
                float x = a[size_t(m) * lda + i];
                for (int v = 0; v < V; v++) part[m][v] += x * w[v];
            }
        }
        for (int m = 0; m < R; m++) for (int v = 0; v < V; v++) sums[m][v] += part[m][v];
    }
    deliver(sums, first, c);
}

// sums += the products of four inputs for each of 16 columns; AMX's order of weights, [16 columns][4]
#if WITH_AMX
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

static inline Ints pairs(Ints sums, const int16_t* weights, int32_t pair) {  // sums += two products per column
#if BYTES_OF_A_REGISTER == 32
    return in_order(sums + (Ints)_mm256_madd_epi16(load<__m256i>(weights), _mm256_set1_epi32(pair)));
#else
    return sums;  // there is no fixed point
#endif
}
static inline Ints pairs(Ints sums, const int8_t* weights, int32_t pair) {
#if defined(__AVX512VNNI__)
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)weights));
    return (Ints)_mm512_dpwssd_epi32((__m512i)sums, w, _mm512_set1_epi32(pair));
#elif BYTES_OF_A_REGISTER == 64
    for (int i = 0; i < 16; i++) sums[i] += weights[2 * i] * int16_t(pair) + weights[2 * i + 1] * int16_t(pair >> 16);
    return sums;
#elif BYTES_OF_A_REGISTER == 32
    return sums + (Ints)_mm256_madd_epi16(_mm256_cvtepi8_epi16(load<__m128i>(weights)), _mm256_set1_epi32(pair));
#else
    __m128i w = _mm_loadl_epi64((const __m128i*)weights);
    return sums + (Ints)_mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(w, w), 8), _mm_set1_epi32(pair));
#endif
}
template <class V, class W> static inline Two<V> pairs(Two<V> sums, const W* weights, int32_t pair) {
    return {pairs(sums.low, weights, pair), pairs(sums.high, weights + sizeof(V) / 2, pair)};
}

template <class W, int R, int V>  // W: weights of 8 or 16 bits
[[gnu::noinline]] static void product_whole(const int16_t* a, const float* scale, int lda, const W* b, const float* w, size_t step,
                                            int k, int first, Prefetch soon, float* c) {
    v16 sums[R][V] = {};
    int groups = up(k, GROUP) / GROUP;
    for (int g = 0; g < groups; g++) {
        i16v exact[R][V] = {};  // 64 products of 8 by 16 bits fit
#if WITH_AMX
        for (int u = 0; u < V / 2; u++) ahead(b + u * step + g * 2048 + AHEAD, 2048);
        for (int i = 0; i < GROUP; i += 4)
            for (int v = 0; v < V; v++) for (int m = 0; m < R; m++)
                exact[m][v] = fours(exact[m][v], (const int8_t*)b + v / 2 * step + g * 2048 + (first + v % 2) * 1024 + i * 16,
                                    a + size_t(m) * lda + g * GROUP + i);
#else
        for (int i = g * GROUP; i < (g + 1) * GROUP; i += STRIDE) soon.ask(i);
#pragma GCC unroll 4
        for (int i = g * GROUP; i < (g + 1) * GROUP; i += 2)
            for (int v = 0; v < V; v++) for (int m = 0; m < R; m++)
                exact[m][v] = pairs(exact[m][v], b + v / 2 * step + i * UNIT + (first + v % 2) * 32,
                                    load<int32_t>(a + size_t(m) * lda + i));
#endif
        for (int v = 0; v < V; v++) {
            v16 width = load<v16>(w + (size_t(v / 2) * groups + g) * UNIT + (first + v % 2) * 16);
            for (int m = 0; m < R; m++) sums[m][v] += floats(exact[m][v]) * (width * scale[m * (lda / GROUP) + g]);
        }
    }
    deliver(sums, first, c);
}

// Exact sums of products of 4 by 8 bits, four for each column: in AVX2 and SSE two 16-bit halves per column, in which the products of
// 32 inputs fit.
#if BYTES_OF_A_REGISTER == 64 || !defined(__SSSE3__)
typedef Ints Fours;
static inline Ints whole(Fours x) { return x; }
#else
typedef int16_t Fours __attribute__((vector_size(BYTES_OF_A_REGISTER)));
static inline Ints whole(Fours x) {
#if BYTES_OF_A_REGISTER == 32
    return (Ints)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1));
#else
    return (Ints)_mm_madd_epi16((__m128i)x, _mm_set1_epi16(1));
#endif
}
#endif
static inline Fours fours(Fours sums, Words weights, int32_t x) {
#if defined(__AVX512VNNI__)
    return (Fours)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, _mm512_set1_epi32(x));
#elif BYTES_OF_A_REGISTER == 64 || !defined(__SSSE3__)
    for (int byte = 0; byte < 4; byte++) sums += (Ints)(weights >> 8 * byte & 255u) * int(int8_t(x >> 8 * byte));
    return sums;
#elif BYTES_OF_A_REGISTER == 32
    return in_order(sums + (Fours)_mm256_maddubs_epi16((__m256i)weights, _mm256_set1_epi32(x)));
#else
    return in_order(sums + (Fours)_mm_maddubs_epi16((__m128i)weights, _mm_set1_epi32(x)));
#endif
}
template <class V> static inline auto whole(Two<V> x) { return Two<decltype(whole(x.low))>{whole(x.low), whole(x.high)}; }
template <class V, class W> static inline Two<V> fours(Two<V> sums, Two<W> weights, int32_t x) {
    return {fours(sums.low, weights.low, x), fours(sums.high, weights.high, x)};
}

template <int R, int V>
[[gnu::noinline]] static void product_int4(const int8_t* a, const float* scale, int lda, const Fine* b, int k, int first, Prefetch soon,
                                           float* c) {
    v16 sums[R][V] = {};
    const int groups = up(k, GROUP) / FINE;
    for (int g = 0; g < groups; g++) {
        Sixteen<Fours> exact[R][V] = {};
        for (int i = g * FINE; i < (g + 1) * FINE; i += STRIDE) soon.ask(i);
#pragma GCC unroll 4
        for (int eight = 0; eight < FINE / 8; eight++)
            for (int v = 0; v < V; v++) {
                const u16v both = load<u16v>(b[v / 2 * groups + g].weights[eight][(first + v % 2) * 16]);
                const u16v lower = both & 0x0f0f0f0fu, upper = (both >> 4) & 0x0f0f0f0fu;
                const int8_t* x = a + g * FINE + eight * 8;
                for (int m = 0; m < R; m++) exact[m][v] = fours(exact[m][v], lower, load<int32_t>(x + size_t(m) * lda));
                for (int m = 0; m < R; m++) exact[m][v] = fours(exact[m][v], upper, load<int32_t>(x + size_t(m) * lda + 4));
            }
        for (int v = 0; v < V; v++) {
            const Fine& here = b[v / 2 * groups + g];
            const v16 width = load<v16>(here.scale + (first + v % 2) * 16), least = load<v16>(here.least + (first + v % 2) * 16);
            for (int m = 0; m < R; m++) {
                const float* own = scale + (size_t(m) * (lda / FINE) + g) * 2;
                sums[m][v] += floats(whole(exact[m][v])) * (width * own[0]);
                sums[m][v] += least * own[1];
            }
        }
    }
    deliver(sums, first, c);
}

#if WITH_AMX
static void product_amx_2x2(const uint16_t* a, int lda, const uint16_t* b, int steps, float* c) {  // c [32][32]
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (int k = 0; k < steps; k++, a += 32, b += 1024) {  // loads between the products, which they would wait for otherwise
        _tile_loadd(4, a, lda * 2); _tile_loadd(6, b, 64); _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + 512, 64); _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda, lda * 2); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
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

// c [M][32], M at most 64; the same to the last bit as product_whole. Work is a list of steps of four tiles: two groups for the same
// eight rows, or one group for sixteen rows.
static void product_amx_int8(const int8_t* a, const float* scale, int lda, const int8_t* b, const float* w, int k, int M, float* c) {
    alignas(64) int32_t exact[4][256];
    const int groups = up(k, GROUP) / GROUP, per_row = lda / GROUP;
    const bool few = M <= 8;
    const int blocks = few ? 1 : (M + 15) / 16, steps = few ? (groups + 1) / 2 : groups * blocks;
    std::memset(c, 0, size_t(M) * UNIT * 4);
    auto add = [&](int step) {
        for (int i = 0; i < 4; i++) {
            int g = few ? step * 2 + i / 2 : step / blocks, first = few ? 0 : step % blocks * 16 + i / 2 * 8;
            int rows = M - first < 8 ? M - first : 8;
            if (g < groups && rows > 0)
                add_exact(exact[i], rows, load<v16>(w + g * UNIT + i % 2 * 16), scale + size_t(first) * per_row + g, per_row,
                          c + first * UNIT + i % 2 * 16);
        }
    };
    for (int step = 0; step < steps; step++) {
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
        _tile_stored(0, exact[0], 64); _tile_stored(1, exact[1], 64); _tile_stored(2, exact[2], 64); _tile_stored(3, exact[3], 64);
        add(step);
    }
}
#endif

template <int R, int V>
[[gnu::noinline]] static void product_bf16(const float* a, int lda, const uint16_t* b, size_t step, int k, int first, Prefetch soon,
                                           float* c) {  // without AMX
    v16 sums[R][V] = {};
    b += first * 512;
    for (int begin = 0; begin < k; begin += 32, a += 32, b += 1024) {
        v16 part[R][V] = {};  // with `sums` itself the compiler would keep them in memory: half as fast
#pragma GCC unroll 16
        for (int i = 0; i < 32; i += 2) {  // a pair: 16 columns of (even, odd)
            if (i % STRIDE == 0) soon.ask(begin + i);
            auto pairs = [&](int v) { return b + v / 2 * step + v % 2 * 512 + i * 16; };
            for (int v = 0; v < V; v++) {
                v16 w = first_of(pairs(v));
                for (int m = 0; m < R; m++) part[m][v] += a[size_t(m) * lda + i] * w;
            }
            for (int v = 0; v < V; v++) {
                v16 w = second_of(pairs(v));
                for (int m = 0; m < R; m++) part[m][v] += a[size_t(m) * lda + i + 1] * w;
            }
        }
        for (int m = 0; m < R; m++) for (int v = 0; v < V; v++) sums[m][v] += part[m][v];
    }
    deliver(sums, first, c);
}

// rows [M] times one matrix, by all threads; `done(m, unit, c)` gets 32 results of a row.
template <class Share, class Done>
static void multiply(Format format, const Rows& a, int M, const Matrix& w, Share share, Done done) {
    alignas(64) float c[64 * UNIT];
    int units = up(w.n, UNIT) / UNIT;
    size_t bytes = unit_bytes(format, w.k);
    const char* data = (const char*)w.data;
#if WITH_AMX
    settled();
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
            for (int u; (u = pieces.next()) >= 0;)
                for (int m0 = 0; m0 < M; m0 += 32) {
                    product_amx_2x2(x + size_t(m0) * a.ld, a.ld, (const uint16_t*)(data + u * bytes), steps, c);
                    for (int m = m0; m < M && m < m0 + 32; m++) done(m, u, c + (m - m0) * UNIT);
                }
        }
        return;
    }
#endif
    // R rows times V vectors of columns: many rows and one vector, a unit, or few rows and several units, as many sums must be under
    // way as the adder is deep
    const int groups = up(w.k, GROUP) / GROUP, lines = int(unit_bytes(format, GROUP) / 64) / (GROUP / STRIDE);  // of a unit, for a stride
    Prefetch soon{data, 0};
    auto run = [&](auto rows, auto vectors, int m0, int u) {
        constexpr int R = decltype(rows)::value, V = decltype(vectors)::value;
        const char* b = data + u * bytes;
        for (int first = 0; first < 2; first += V, soon.at += soon.lines * (w.k / STRIDE) * 64)
            if (format == F32)
                product_f32<R, V>((const float*)a.data + size_t(m0) * a.ld, a.ld, (const float*)b, bytes / 4, w.k, first, soon, c);
            else if (FIXED && format == BF16)
                product_whole<int16_t, R, V>((const int16_t*)a.data + size_t(m0) * a.ld, a.scales + size_t(m0) * (a.ld / GROUP), a.ld,
                                             (const int16_t*)b, w.scales + size_t(u) * groups * UNIT, bytes / 2, w.k, first, soon, c);
            else if (format == BF16)
                product_bf16<R, V>((const float*)a.data + size_t(m0) * a.ld, a.ld, (const uint16_t*)b, bytes / 2, w.k, first, soon, c);
            else if (format == INT8)
                product_whole<int8_t, R, V>((const int16_t*)a.data + size_t(m0) * a.ld, a.scales + size_t(m0) * (a.ld / GROUP), a.ld,
                                            (const int8_t*)b, w.scales + size_t(u) * groups * UNIT, bytes, w.k, first, soon, c);
            else
                product_int4<R, V>((const int8_t*)a.data + size_t(m0) * a.ld, a.scales + size_t(m0) * (a.ld / FINE) * 2, a.ld,
                                   (const Fine*)b, w.k, first, soon, c);
        for (int s = 0; s < std::max(V / 2, 1); s++) for (int m = 0; m < R; m++) done(m0 + m, u + s, c + (s * R + m) * UNIT);
    };
    using std::integral_constant;
    constexpr int FEW = WIDE ? TALL : 3, SEVERAL = WIDE ? 4 : 2;  // rows for which a unit is taken whole; units at once for one row
    auto all = [&](int u) {  // in even pieces, and the next unit is asked for, a share with each
        const int count = (M + TALL - 1) / TALL, halves = M > 2 ? 2 : 1;
        const int passes = count * halves;
        if (!WIDE && M < 3) soon = {data + u * bytes + AHEAD, lines};
        else if (!WIDE) soon = {data + (u + 1) * bytes, (lines + passes - 1) / passes};
        for (int m = 0, left = count, rows; left; m += rows, left--)
            switch (rows = (M - m + left - 1) / left) {
                case 1: run(integral_constant<int, 1>(), integral_constant<int, 2>(), m, u); break;
                case 2: run(integral_constant<int, 2>(), integral_constant<int, 2>(), m, u); break;
                case 3:  // in int8 two vectors are sign-extended into more registers than there are
                    if (!WIDE && format >= INT8) run(integral_constant<int, 3>(), integral_constant<int, 1>(), m, u);
                    else run(integral_constant<int, 3>(), integral_constant<int, 2>(), m, u);
                    break;
                case 4: run(integral_constant<int, 4>(), integral_constant<int, FEW < 4 ? 1 : 2>(), m, u); break;
                case 5: run(integral_constant<int, 5>(), integral_constant<int, 1>(), m, u); break;
                case 6: run(integral_constant<int, 6>(), integral_constant<int, 1>(), m, u); break;
            }
    };
    const int width = M <= (WIDE ? 3 : 1) ? SEVERAL : 1;
    Pieces pieces = share(units, width);
    for (int u; (u = pieces.next()) >= 0;) {
        if (width > 1 && u + width <= pieces.end()) {
            if (!WIDE) soon = {data + u * bytes + AHEAD, lines};
            for (int m = 0; m < M; m++) run(integral_constant<int, 1>(), integral_constant<int, 2 * SEVERAL>(), m, u);
        } else for (int v = u; v < u + width && v < pieces.end(); v++) all(v);
    }
}

static float odd(const float* x, int n) {  // 0, or NaN if one of them is not finite
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * 0.f;
    return sum;
}

// weights [n][k] in float32 or bf16 → the packed form; for int8 and in fixed point also the scales [units][k / 64][32]
static void pack(int format, int bf16, const void* weights, int n, int k, void* packed, float* scales, int threads) {
    size_t bytes = unit_bytes(Format(format), k);
    int groups = up(k, GROUP) / GROUP;
#pragma omp parallel for num_threads(threads)
    for (int unit = 0; unit < up(n, UNIT) / UNIT; unit++) {
        char* out = (char*)packed + unit * bytes;
        for (int g = 0; g < groups; g++) {
            float part[UNIT][GROUP] = {};
            int first = g * GROUP, width = std::min(GROUP, k - first);
            for (int column = 0; column < UNIT && unit * UNIT + column < n; column++) {
                size_t from = size_t(unit * UNIT + column) * k + first;
                if (!bf16) std::memcpy(part[column], (const float*)weights + from, width * 4);
                else for (int i = 0; i < width; i++)
                    part[column][i] = from_bits(uint32_t(((const uint16_t*)weights)[from + i]) << 16);
            }
            if (format == F32)
                for (int i = 0; i < width; i++) for (int column = 0; column < UNIT; column++)
                    ((float*)out)[size_t(first + i) * UNIT + column] = part[column][i];
            else if (!FIXED && format == BF16)
                for (int i = 0; i < std::min(GROUP, up(k, 32) - first); i += 2) for (int column = 0; column < UNIT; column++) {
                    uint16_t* pair = (uint16_t*)out + (first + i) / 32 * 1024 + column / 16 * 512 + i % 32 / 2 * 32 + column % 16 * 2;
                    put(pair, part[column][i]);
                    put(pair + 1, part[column][i + 1]);
                }
            else if (format == INT4)
                for (int column = 0; column < UNIT; column++) for (int half = 0; half < 2; half++) {
                    const float* from = part[column] + half * FINE;
                    const auto [least, most] = std::minmax_element(from, from + FINE);
                    const float range = *most - *least, inverse = range > 0 ? 15 / range : 0;
                    Fine& to = ((Fine*)out)[g * 2 + half];
                    to.scale[column] = range / 15;
                    to.least[column] = *least + odd(from, FINE);
                    for (int i = 0; i < FINE; i++) {
                        const int q = int(__builtin_rintf((from[i] - *least) * inverse));
                        uint8_t& byte = to.weights[i / 8][column][i % 4];
                        byte = uint8_t(i % 8 < 4 ? q : byte | q << 4);
                    }
                }
            else
                for (int column = 0; column < UNIT; column++) {
                    const float limit = format == BF16 ? MOST : 127;
                    float most = 0;
                    for (float w : part[column]) most = std::max(most, std::fabs(w));
                    scales[(size_t(unit) * groups + g) * UNIT + column] = most / limit + odd(part[column], GROUP);
                    float inverse = most > 0 ? limit / most : 0;
                    if (format == BF16)
                        for (int i = 0; i < GROUP; i++)
                            ((int16_t*)out)[(first + i) / 2 * 64 + column * 2 + i % 2] = int16_t(__builtin_rintf(part[column][i] * inverse));
                    else for (int i = 0; i < GROUP; i++)
                        ((int8_t*)out)[AMX ? g * 2048 + column / 16 * 1024 + i / 4 * 64 + column % 16 * 4 + i % 4
                                           : (first + i) / 2 * 64 + column * 2 + i % 2] = int8_t(__builtin_rintf(part[column][i] * inverse));
                }
        }
    }
}
