// Attention for one key/value head over the blocks of the cache, 16 tokens each: a stretch of blocks at a time, with a running maximum
// (Milakov & Gimelshein, arXiv:1805.02867). Stretches begin at fixed places, so results do not depend on the company.
#pragma once
#include "vectors.h"
#include <algorithm>
#include <type_traits>

constexpr int TOGETHER = 8;  // tokens whose attention is computed together
constexpr int BLOCKS = 32;    // blocks in a stretch
constexpr int STRETCH = BLOCKS * SLOTS;
constexpr int TILE = 16;     // rows that a tile reads, whether they are meant or not

// With a cache in bf16 and AMX, queries and weights are two bf16 numbers each, their sum exact to 16 bits, in rows that follow each
// other: a tile holds 8 of them, at no cost. Else they are one in float32.
template <class T> constexpr int PARTS = AMX && sizeof(T) == 2 ? 2 : 1;
template <class T> using Part = std::conditional_t<AMX, T, float>;

template <class T>
struct Room {  // where R query rows are worked on
    Part<T>* queries;  // [R · PARTS][size]
    float* scores;     // [R][STRETCH]
    Part<T>* weights;  // [R · PARTS][STRETCH]; in float32 they take the place of the scores
    float* sums;       // [R · PARTS][size]: weights times values of this stretch
    float* out;        // [R][size]: of all so far, to be divided by `total`
    float *top, *total, *factor;  // [R]: largest score so far, sum of weights, what `out` is multiplied by now

    static size_t floats(int rows, int size) { return size_t(up(rows, 16) + TILE) * (4 * size + 2 * STRETCH + 3); }
    Room(float* memory, int rows, int size) {
        const int all = up(rows, 16) + TILE;
        auto take = [&](size_t count) { float* here = memory; memory += size_t(all) * count; return here; };
        queries = (Part<T>*)take(size);
        scores = take(STRETCH);
        weights = PARTS<T> == 1 ? (Part<T>*)scores : (Part<T>*)take(STRETCH);
        sums = take(2 * size);
        out = take(size);
        top = take(1); total = take(1); factor = take(1);
    }
};

struct Soon {  // blocks that will be read next: asked for while something is computed
    const void* blocks[BLOCKS];
    int count, bytes;
    void ask(int from, int to) const { for (int i = from; i < to && i < count; i++) ahead(blocks[i], bytes); }
};

// In float32: keys [E][16 slots], values [16 slots][E]. In bf16: keys [E/2][16 slots][2], values [8 pairs of slots][E][2].

static inline void keep(float* keys, float* values, int slot, int size, const float* key, const float* value) {
    for (int e = 0; e < size; e++) keys[e * SLOTS + slot] = key[e];
    std::memcpy(values + slot * size, value, size * 4);
}
static inline void keep(uint16_t* keys, uint16_t* values, int slot, int size, const float* key, const float* value) {
    for (int e = 0; e < size; e++) {
        put(keys + e / 2 * 32 + slot * 2 + e % 2, key[e]);
        put(values + slot / 2 * size * 2 + e * 2 + slot % 2, value[e]);
    }
}

static inline void place(float* to, const float* from, int n) { std::memcpy(to, from, n * 4); }
static inline void place(float* to, int, v16 x) { store(to, x); }

template <int R, int B, class T>
static void scores_of(const float* q, int size, const T* const* keys, float* out) {
    v16 sums[R][B] = {};
    auto add = [&](int e, auto key_of) {
        for (int b = 0; b < B; b++) {
            v16 key = key_of(b);
            for (int r = 0; r < R; r++) sums[r][b] += q[r * size + e] * key;
        }
    };
    if constexpr (sizeof(T) == 4)
        for (int e = 0; e < size; e++) add(e, [&](int b) { return load<v16>(keys[b] + e * SLOTS); });
    else
        for (int e = 0; e < size; e += 2) {
            add(e, [&](int b) { return first_of(keys[b] + e * SLOTS); });
            add(e + 1, [&](int b) { return second_of(keys[b] + e * SLOTS); });
        }
    for (int r = 0; r < R; r++) for (int b = 0; b < B; b++) store(out + r * STRETCH + b * SLOTS, sums[r][b]);
}

template <int R, int W, class T>
[[gnu::noinline]] static void values_of(const float* weights, const T* const* values, int count, int column, int size, float* sums,
                                        bool fresh, const Soon* soon) {
    v16 total[R][W] = {};
    sums += column;
    if (!fresh) for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) total[r][w] = load<v16>(sums + r * size + w * 16);
    for (int b = 0; b < count; b++, weights += SLOTS) {
        const T* here = values[b];
        if (soon) soon->ask(b, b + 1);
        auto add = [&](int t, auto value_of) {
            for (int w = 0; w < W; w++) {
                v16 value = value_of(column + w * 16);
                for (int r = 0; r < R; r++) total[r][w] += weights[r * STRETCH + t] * value;
            }
        };
        if constexpr (sizeof(T) == 4)
            for (int t = 0; t < SLOTS; t++) add(t, [&](int e) { return load<v16>(here + t * size + e); });
        else
            for (int t = 0; t < SLOTS; t += 2) {
                add(t, [&](int e) { return first_of(here + t * size + 2 * e); });
                add(t + 1, [&](int e) { return second_of(here + t * size + 2 * e); });
            }
    }
    for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) store(sums + r * size + w * 16, total[r][w]);
}

// f(row, count): runs over the rows in pieces for which there is a kernel
template <class F> static void by_rows(int first, int rows, F f) {
    const int end = first + rows;
    for (; end - first >= 6; first += 6) f(first, std::integral_constant<int, 6>());
    for (; end - first >= 3; first += 3) f(first, std::integral_constant<int, 3>());
    for (; end - first >= 1; first += 1) f(first, std::integral_constant<int, 1>());
}

// Scores of some rows over `count` blocks from place `at` of the stretch; their values will be needed next.
template <class T>
static void score(const Room<T>& room, int first, int rows, int size, const T* const* keys, const Soon& values, int count, int at) {
    by_rows(first, rows, [&](int r, auto n) {
        constexpr int R = decltype(n)::value, B = WIDE ? (R <= 3 ? 4 : 2) : R == 1 ? 4 : R == 3 ? 2 : 1;
        float* out = room.scores + r * STRETCH + at * SLOTS;
        int b = 0;
        for (; b + B <= count; b += B) {
            if (r == first) values.ask(b, b + B);
            scores_of<R, B>(room.queries + r * size, size, keys + b, out + b * SLOTS);
        }
        for (; b < count; b++) {
            if (r == first) values.ask(b, b + 1);
            scores_of<R, 1>(room.queries + r * size, size, keys + b, out + b * SLOTS);
        }
    });
}

// Adds the blocks' values by their weights to the sums, which begin here if they are `fresh`.
template <class T>
static void mix(const Room<T>& room, int first, int rows, int size, const T* const* values, int count, int at, bool fresh,
                const Soon& soon) {
    by_rows(first, rows, [&](int r, auto n) {
        constexpr int R = decltype(n)::value, W = WIDE ? 4 : R == 1 ? 4 : R == 3 ? 2 : 1;
        const float* weights = room.weights + r * STRETCH + at * SLOTS;
        float* sums = room.sums + r * size;
        auto asked = [&](int e) { return r == first && e == 0 ? &soon : nullptr; };
        int e = 0;
        for (; W > 1 && e + 16 * W <= size; e += 16 * W) values_of<R, W>(weights, values, count, e, size, sums, fresh, asked(e));
        for (; e < size; e += 16) values_of<R, 1>(weights, values, count, e, size, sums, fresh, asked(e));
    });
    soon.ask(count, BLOCKS);
}

// In bf16, with AMX
#if WITH_AMX

static inline void place(uint16_t* to, int apart, v16 x) {  // 16 numbers, as high and low parts in rows `apart` from each other
    h16 high = narrow(x);
    store(to, high);
    store(to + apart, narrow(x - widen(high)));
}
static inline void place(uint16_t* to, const float* from, int n) { for (int i = 0; i < n; i += 16) place(to + i, n, load<v16>(from + i)); }

static void score(const Room<uint16_t>& room, int first, int rows, int size, const uint16_t* const* keys, const Soon& values, int count,
                  int at) {
    alignas(64) float c[4][256];
    settled();
    for (int r = first; r < first + rows; r += 8) {
        const uint16_t* queries = room.queries + 2 * r * size;
        const int meant = std::min(8, first + rows - r);
        for (int b = 0; b < count; b += 4) {
            const int n = std::min(4, count - b);
            if (r == first) values.ask(b, b + n);
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (int e = 0; e < size; e += 32) {
                _tile_loadd(4, queries + e, size * 2);
                _tile_loadd(5, keys[b] + e * 16, 64); _tile_dpbf16ps(0, 4, 5);
                if (n > 1) { _tile_loadd(5, keys[b + 1] + e * 16, 64); _tile_dpbf16ps(1, 4, 5); }
                if (n > 2) { _tile_loadd(5, keys[b + 2] + e * 16, 64); _tile_dpbf16ps(2, 4, 5); }
                if (n > 3) { _tile_loadd(5, keys[b + 3] + e * 16, 64); _tile_dpbf16ps(3, 4, 5); }
            }
            _tile_stored(0, c[0], 64); _tile_stored(1, c[1], 64); _tile_stored(2, c[2], 64); _tile_stored(3, c[3], 64);
            float* out = room.scores + r * STRETCH + (at + b) * SLOTS;
            for (int i = 0; i < n; i++) for (int j = 0; j < meant; j++)
                store(out + j * STRETCH + i * SLOTS, load<v16>(c[i] + 32 * j) + load<v16>(c[i] + 32 * j + 16));
        }
    }
}

static void mix(const Room<uint16_t>& room, int first, int rows, int size, const uint16_t* const* values, int count, int at, bool fresh,
                const Soon& soon) {
    alignas(64) float c[4][256];
    settled();
    for (int r = first; r < first + rows; r += 8) {
        const uint16_t* weights = room.weights + 2 * r * STRETCH + at * SLOTS;
        const int lines = 2 * std::min(8, first + rows - r);
        for (int e = 0; e < size; e += 64) {
            const int n = std::min(4, (size - e) / 16);
            float* sums = room.sums + 2 * r * size + e;
            if (fresh) { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
            else {
                for (int i = 0; i < n; i++) for (int j = 0; j < lines; j++) store(c[i] + j * 16, load<v16>(sums + j * size + i * 16));
                settled();
                _tile_loadd(0, c[0], 64); _tile_loadd(1, c[1], 64); _tile_loadd(2, c[2], 64); _tile_loadd(3, c[3], 64);
            }
            for (int b = 0; b < count; b++) {
                if (r == first && e == 0) soon.ask(b, b + 1);
                const uint16_t* here = values[b] + e * 2;
                _tile_loadd(6, weights + b * SLOTS, STRETCH * 2);
                _tile_loadd(7, here, size * 4); _tile_dpbf16ps(0, 6, 7);
                if (n > 1) { _tile_loadd(7, here + 32, size * 4); _tile_dpbf16ps(1, 6, 7); }
                if (n > 2) { _tile_loadd(7, here + 64, size * 4); _tile_dpbf16ps(2, 6, 7); }
                if (n > 3) { _tile_loadd(7, here + 96, size * 4); _tile_dpbf16ps(3, 6, 7); }
            }
            _tile_stored(0, c[0], 64); _tile_stored(1, c[1], 64); _tile_stored(2, c[2], 64); _tile_stored(3, c[3], 64);
            for (int i = 0; i < n; i++) for (int j = 0; j < lines; j++) store(sums + j * size + i * 16, load<v16>(c[i] + j * 16));
        }
    }
    soon.ask(count, BLOCKS);
}
#endif

// For either kind of cache

template <class T> static void begin_rows(const Room<T>& room, int rows, int size) {
    std::memset(room.out, 0, size_t(rows) * size * 4);
    std::fill(room.top, room.top + rows, -INFINITY);
    std::fill(room.total, room.total + rows, 0.f);
}

// Row r sees the first `live` slots of the stretch; weights are wanted for `width`, a multiple of 16.
template <class T> static void soften(const Room<T>& room, int r, int live, int width) {
    float* scores = room.scores + r * STRETCH;
    const int padded = up(live, 16);
    float factor = 1;
    if (live > 0) {
        for (int t = live; t < padded; t++) scores[t] = -INFINITY;
        v16 high = splat(-INFINITY), total{};
        for (int t = 0; t < padded; t += 16) high = max(high, load<v16>(scores + t));
        float top = std::max(room.top[r], largest(high));
        factor = exponential(splat(room.top[r] - top))[0];
        for (int t = 0; t < padded; t += 16) {
            v16 y = exponential(load<v16>(scores + t) - top);
            total += y;
            place(room.weights + PARTS<T> * r * STRETCH + t, STRETCH, y);
        }
        room.top[r] = top;
        room.total[r] = room.total[r] * factor + sum(total);
    }
    room.factor[r] = factor;
    for (int t = padded; t < width; t += 16) place(room.weights + PARTS<T> * r * STRETCH + t, STRETCH, v16{});
}

template <class T> static void gather(const Room<T>& room, int r, int size) {  // this stretch's sums to those of all
    for (int e = 0; e < size; e += 16) {
        v16 fresh = load<v16>(room.sums + PARTS<T> * r * size + e);
        if (PARTS<T> == 2) fresh += load<v16>(room.sums + (2 * r + 1) * size + e);
        store(room.out + r * size + e, load<v16>(room.out + r * size + e) * room.factor[r] + fresh);
    }
}
