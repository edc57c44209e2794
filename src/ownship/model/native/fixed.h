// Products of large matrices in fixed point (FIXED in vectors.h): those of 64 numbers are summed exactly, sums of these in float32.
#pragma once
#include "vectors.h"
#include <algorithm>
#include <vector>

#if BYTES_OF_A_REGISTER == 32
#define WITH_FIXED 1

constexpr int LEFT = 6, RIGHT = 16;  // rows and columns of a tile

struct Given {  // [rows][K] in float32 or bf16; one of the strides is 1
    const void* data;
    int64_t row, step;
    int32_t rows, bf16;
};

static inline void transpose(const int32_t* from, int apart, int32_t* to, int apart_there) {  // 8 x 8
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = load<__m256i>(from + i * apart);
    for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]), a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]), a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        store(to + i * apart_there, _mm256_permute2x128_si256(a[i], a[i + 4], 0x20));
        store(to + (i + 4) * apart_there, _mm256_permute2x128_si256(a[i], a[i + 4], 0x31));
    }
}

// The rows of one side in fixed point, as pairs: each by itself, or 16 side by side.
template <bool SIDE_BY_SIDE> class Fixed {
    std::vector<int32_t> pairs;  // [rows][blocks][32], rows a little apart; or [rows / 16][blocks][32][16]
    std::vector<float> scales;   // [rows][blocks] or [rows / 16][blocks][16]
    int blocks = 0;
    static constexpr int PAIRS = GROUP / 2, APART = 16;  // rows a power of two apart would fall on the same lines of the processor's cache
    int32_t* at(int row, int block) {
        return pairs.data() + (SIDE_BY_SIDE ? (size_t(row / 16) * blocks + block) * PAIRS * 16 : size_t(row) * step() + block * PAIRS);
    }
    float* scale_at(int row, int block) {
        return scales.data() + (SIDE_BY_SIDE ? (size_t(row / 16) * blocks + block) * 16 + row % 16 : size_t(row) * blocks + block);
    }
public:
    size_t step() const { return size_t(blocks) * PAIRS + APART; }  // from row to row
    size_t scale_step() const { return blocks; }
    const int32_t* of(int row, int block) const { return const_cast<Fixed*>(this)->at(row, block); }
    const float* scale(int row, int block) const { return const_cast<Fixed*>(this)->scale_at(row, block); }

    void make(const Given& x, int K, int threads) {
        blocks = up(K, GROUP) / GROUP;
        const size_t rows = up(x.rows, 16) + 16;
        if (scales.size() < rows * blocks) scales.resize(rows * blocks);
        if (pairs.size() < rows * step()) pairs.resize(rows * step());
        if (x.bf16) fill((const uint16_t*)x.data, x, K, threads); else fill((const float*)x.data, x, K, threads);
    }
private:
    template <class T> static v16 sixteen(const T* p, int n) {  // numbers, zeros after the first n
        if (n >= 16) return wide(p);
        alignas(64) float all[16] = {};
        for (int i = 0; i < n; i++) all[i] = single(p + i);
        return load<v16>(all);
    }
    static v16 wide(const float* p) { return load<v16>(p); }
    static v16 wide(const uint16_t* p) { return widen(load<h16>(p)); }
    static float single(const float* p) { return *p; }
    static float single(const uint16_t* p) { return from_bits(uint32_t(*p) << 16); }

    // 16 rows at a time. What is not a number, or not finite, makes the scale NaN and so the results.
    template <class T> void fill(const T* data, const Given& x, int K, int threads) {
        const int rows = up(x.rows, 16) + (SIDE_BY_SIDE ? 0 : 16);  // tiles read a few more
#pragma omp parallel for num_threads(threads)
        for (int first = 0; first < rows; first += 16) {
            const int real = std::clamp(x.rows - first, 0, 16);
            for (int b = 0; b < blocks; b++) {
                const T* from = data + first * x.row + int64_t(b) * GROUP * x.step;
                const int n = std::min(GROUP, K - b * GROUP);
                alignas(64) int32_t all[16 * PAIRS];
                if (x.step == 1) {  // numbers of a row lie side by side
                    int32_t* to = SIDE_BY_SIDE ? all : at(first, b);
                    const size_t apart = SIDE_BY_SIDE ? PAIRS : step();
                    for (int r = 0; r < 16; r++) *scale_at(first + r, b) = r < real ? row(from + r * x.row, n, to + r * apart)
                                                                                    : (std::memset(to + r * apart, 0, PAIRS * 4), 0.f);
                    if (SIDE_BY_SIDE)
                        for (int r = 0; r < 16; r += 8) for (int p = 0; p < PAIRS; p += 8)
                            transpose(all + r * PAIRS + p, PAIRS, at(first, b) + p * 16 + r, 16);
                } else {  // those of a column do
                    alignas(64) float own[16];
                    column(from, x.step, real, n, SIDE_BY_SIDE ? at(first, b) : all, own);
                    for (int r = 0; r < 16; r++) *scale_at(first + r, b) = own[r];
                    if (!SIDE_BY_SIDE)
                        for (int r = 0; r < 16; r += 8) for (int p = 0; p < PAIRS; p += 8)
                            transpose(all + p * 16 + r, 16, at(first, b) + r * step() + p, int(step()));
                }
            }
        }
    }

    template <class T> static float row(const T* from, int n, int32_t* to) {  // [32] pairs, and their scale
        v16 parts[GROUP / 16];
        for (int i = 0; i < GROUP / 16; i++) parts[i] = sixteen(from + 16 * i, n - 16 * i);
        const auto [scale, inverse] = scale_of(parts, GROUP / 16, MOST);
        for (int i = 0; i < GROUP / 16; i++) store(to + 8 * i, shorts(nearest(parts[i] * inverse)));
        return scale;
    }
    template <class T> static void column(const T* from, int64_t step, int real, int n, int32_t* to, float* own) {  // [32][16] and [16]
        v16 top{}, odd{};
        for (int i = 0; i < n; i++) {
            const v16 v = sixteen(from + i * step, real);
            top = max(top, max(v, -v));
            odd += v * 0.f;
        }
        store(own, top);
        alignas(64) float inverses[16];
        for (int r = 0; r < 16; r++) inverses[r] = own[r] > 0 ? MOST / own[r] : 0;
        for (int r = 0; r < 16; r++) own[r] /= MOST;
        store(own, load<v16>(own) + odd);
        const v16 inverse = load<v16>(inverses);
        auto get = [&](int i) { return i < n ? nearest(sixteen(from + i * step, real) * inverse) : i16v{}; };
        for (int p = 0; p < PAIRS; p++) store(to + p * 16, (get(2 * p) & 0xffff) + (get(2 * p + 1) << 16));
    }
};

static inline Ints two_products(Ints sums, Ints a, Ints b) { return in_order(sums + (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b)); }

// sums [6][ld] += rows [left, left + 6) of one side times 16 of the other, over blocks [from, to)
static void fixed_tile(const Fixed<false>& a, int left, const Fixed<true>& b, int right, int from, int to, float* sums, int ld) {
    const size_t step = a.step();
    for (int block = from; block < to; block++) {
        const int32_t *x = a.of(left, block), *w = b.of(right, block);
        Ints exact[LEFT][2] = {};
#pragma GCC unroll 4
        for (int p = 0; p < GROUP / 2; p++, x++, w += RIGHT) {
            const Ints low = load<Ints>(w), high = load<Ints>(w + 8);
            for (int m = 0; m < LEFT; m++) {
                const Ints two = (Ints)_mm256_set1_epi32(x[m * step]);
                exact[m][0] = two_products(exact[m][0], low, two);
                exact[m][1] = two_products(exact[m][1], high, two);
            }
        }
        const float *own = a.scale(left, block), *widths = b.scale(right, block);
        for (int h = 0; h < 2; h++) {
            const Floats width = load<Floats>(widths + 8 * h);
            for (int m = 0; m < LEFT; m++) {
                float* here = sums + m * ld + 8 * h;
                store(here, load<Floats>(here) + floats(exact[m][h]) * (width * own[m * a.scale_step()]));
            }
        }
    }
}

// out [M][N], float32 or bf16, = a [M][K] times b's [N][K], transposed. Each number's sum runs in one order, whatever the number of threads.
static void fixed_product(const Given& a, const Given& b, int K, void* out, int out_bf16, int threads) {
    static thread_local Fixed<false> left;
    static thread_local Fixed<true> right;
    left.make(a, K, threads);
    right.make(b, K, threads);
    const auto &ours = left;  // not those of the other threads
    const auto &theirs = right;
    constexpr int ROWS = 32, COLUMNS = 8, DEPTH = 9;  // tiles and blocks: the left side stays in the second cache, a tile's right in the first
    const int M = a.rows, N = b.rows, down = up(M, LEFT) / LEFT, across = up(N, RIGHT) / RIGHT, blocks = up(K, GROUP) / GROUP;
    const int chunks = up(down, ROWS) / ROWS, stripes = up(across, COLUMNS) / COLUMNS, deep = up(blocks, DEPTH) / DEPTH;
    const int depth = up(blocks, deep) / deep;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int task = 0; task < chunks * stripes; task++) {
        constexpr int ld = COLUMNS * RIGHT;
        alignas(64) float sums[ROWS * LEFT * ld] = {};
        const int top = task / stripes * ROWS, first = task % stripes * COLUMNS;
        for (int from = 0; from < blocks; from += depth)
            for (int j = first; j < std::min(first + COLUMNS, across); j++)
                for (int i = top; i < std::min(top + ROWS, down); i++)
                    fixed_tile(ours, i * LEFT, theirs, j * RIGHT, from, std::min(from + depth, blocks),
                               sums + (i - top) * LEFT * ld + (j - first) * RIGHT, ld);
        const int columns = std::min(ld, N - first * RIGHT);
        for (int m = 0; m < ROWS * LEFT && top * LEFT + m < M; m++) {
            const float* from = sums + m * ld;
            const size_t at = size_t(top * LEFT + m) * N + first * RIGHT;
            if (!out_bf16) std::memcpy((float*)out + at, from, columns * 4);
            else {
                uint16_t* to = (uint16_t*)out + at;
                int n = 0;
                for (; n + 16 <= columns; n += 16) store(to + n, narrow(load<v16>(from + n)));
                for (; n < columns; n++) put(to + n, from[n]);
            }
        }
    }
}
#else
#define WITH_FIXED 0
#endif
