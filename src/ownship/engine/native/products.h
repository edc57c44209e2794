// Matrix products: rows of inputs times packed weights in float32, bf16 or int8, shared by all threads.
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

struct Matrix {  // packed: units of 32 columns; see pack()
    const void* data;
    const float* scales;  // int8: [units][k / 64][32]
    int32_t n, k;  // outputs, inputs
};

constexpr int BYTES = 3;  // rows from which AMX multiplies int8 weights faster than vectors do

struct Rows {  // the left side of a product: [M (padded to 32)][ld] in float32, bf16, or for int8 weights 16 bits
    void* data;    // with AMX and at least BYTES rows these as two bytes, high and low: [M / 8][8 rows of high, 8 of low][ld]
    float* scales;  // int8: [M][ld / 64]
    int ld;
};

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
#if WITH_AMX
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

// c [M][32], M at most 64; the same to the last bit as product_int8. Work is a list of steps of four tiles: two groups for the same
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
#if WITH_AMX
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

// weights [n][k] in float32 or bf16 → the packed form; int8 also fills scales [units][k / 64][32]
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
            else if (format == BF16)
                for (int i = 0; i < std::min(GROUP, up(k, 32) - first); i += 2) for (int column = 0; column < UNIT; column++) {
                    uint16_t* pair = (uint16_t*)out + (first + i) / 32 * 1024 + column / 16 * 512 + i % 32 / 2 * 32 + column % 16 * 2;
                    put(pair, part[column][i]);
                    put(pair + 1, part[column][i + 1]);
                }
            else
                for (int column = 0; column < UNIT; column++) {
                    float most = 0;
                    for (float w : part[column]) most = std::max(most, std::fabs(w));
                    scales[(size_t(unit) * groups + g) * UNIT + column] = most / 127;
                    float inverse = most > 0 ? 127 / most : 0;
                    for (int i = 0; i < GROUP; i++)
                        ((int8_t*)out)[AMX ? g * 2048 + column / 16 * 1024 + i / 4 * 64 + column % 16 * 4 + i % 4
                                           : (first + i) / 2 * 64 + column * 2 + i % 2] = int8_t(__builtin_rintf(part[column][i] * inverse));
                }
        }
    }
}
