// Attention over the blocks of the cache, 16 tokens each, for one key/value head.
//
// Of R query rows the scores go to out[r][offset ...] and the weights come from there; results are [R][2][E], the sum of the two being
// what is meant. Slots that hold nothing yet have weight 0, and values of 0.
#pragma once
#include "vectors.h"
#include <algorithm>
#include <type_traits>

// In float32: keys [E][16 slots], values [16 slots][E].

static inline void keep(float* keys, float* values, int slot, int size, const float* key, const float* value) {
    for (int e = 0; e < size; e++) keys[e * SLOTS + slot] = key[e];
    std::memcpy(values + slot * size, value, size * 4);
}

template <int R, int B>
static void scores_of(const float* q, int size, const float* const* keys, const float* const* values, bool more, float* const* out,
                      int offset) {
    v16 sums[R][B] = {};
    if (R <= 3) for (int b = 0; b < B; b++) {  // the next keys, and these tokens' values, are asked for meanwhile
        if (more) ahead(keys[B + b], size * SLOTS * 4);
        ahead(values[b], size * SLOTS * 4);
    }
    for (int e = 0; e < size; e++)
        for (int b = 0; b < B; b++) {
            v16 key = load<v16>(keys[b] + e * SLOTS);
            for (int r = 0; r < R; r++) sums[r][b] += q[r * size + e] * key;
        }
    for (int r = 0; r < R; r++) for (int b = 0; b < B; b++) store(out[r] + offset + b * SLOTS, sums[r][b]);
}

template <int R, int W>
static void values_of(const float* const* weights, int offset, const float* values, int size, float* sums) {
    v16 total[R][W];
    for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) total[r][w] = load<v16>(sums + r * 2 * size + w * 16);
    for (int t = 0; t < SLOTS; t++)
        for (int w = 0; w < W; w++) {
            v16 value = load<v16>(values + t * size + w * 16);
            for (int r = 0; r < R; r++) total[r][w] += weights[r][offset + t] * value;
        }
    for (int r = 0; r < R; r++) for (int w = 0; w < W; w++) store(sums + r * 2 * size + w * 16, total[r][w]);
}

// f(r, count): runs over the rows in stretches for which there is a kernel
template <class F> static void stretches(int rows, F f) {
    int r = 0;
    for (; rows - r >= 6; r += 6) f(r, std::integral_constant<int, 6>());
    for (; rows - r >= 3; r += 3) f(r, std::integral_constant<int, 3>());
    for (; rows - r >= 1; r += 1) f(r, std::integral_constant<int, 1>());
}

static void scores(const float* q, int rows, int size, const float* const* keys, const float* const* values, int blocks,
                   float* const* out, int offset) {
    stretches(rows, [&](int r, auto n) {
        constexpr int R = decltype(n)::value, B = R <= 3 ? 4 : 2;
        int b = 0;
        for (; b + B <= blocks; b += B)
            scores_of<R, B>(q + r * size, size, keys + b, values + b, b + 2 * B <= blocks, out + r, offset + b * SLOTS);
        for (; b < blocks; b++)
            scores_of<R, 1>(q + r * size, size, keys + b, values + b, b + 1 < blocks, out + r, offset + b * SLOTS);
    });
}

static void mix(const float* const* weights, int offset, int rows, int size, const float* const* values, int blocks, float* sums,
                uint16_t*) {
    stretches(rows, [&](int r, auto n) {
        constexpr int R = decltype(n)::value;
        for (int b = 0; b < blocks; b++) {
            int e = 0;
            for (; e + 64 <= size; e += 64)
                values_of<R, 4>(weights + r, offset + b * SLOTS, values[b] + e, size, sums + r * 2 * size + e);
            for (; e < size; e += 16)
                values_of<R, 1>(weights + r, offset + b * SLOTS, values[b] + e, size, sums + r * 2 * size + e);
        }
    });
}

// The same over a cache in bf16, with AMX: keys [E/2][16 slots][2] and values [8 pairs of slots][E][2]. Queries and weights go in as
// two bf16 numbers each, their sum exact to 16 bits, in rows 0 to 7 and 8 to 15 of a tile: at most 8 rows, at no cost.
#if WITH_AMX

static inline void keep(uint16_t* keys, uint16_t* values, int slot, int size, const float* key, const float* value) {
    for (int e = 0; e < size; e++) {
        put(keys + e / 2 * 32 + slot * 2 + e % 2, key[e]);
        put(values + slot / 2 * size * 2 + e * 2 + slot % 2, value[e]);
    }
}

static void split(const float* x, int n, uint16_t* high, uint16_t* low) {  // n a multiple of 16
    for (int i = 0; i < n; i += 16) {
        v16 y = load<v16>(x + i);
        h16 top = narrow(y);
        store(high + i, top);
        store(low + i, narrow(y - widen(top)));
    }
}

static void eight_scores(const float* q, int rows, int size, const uint16_t* const* keys, const uint16_t* const* values, int blocks,
                         float* const* out, int offset) {
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
            store(out[r] + offset + (b + i) * SLOTS, load<v16>(c[i] + r * 16) + load<v16>(c[i] + (8 + r) * 16));
    }
}

// `room` for 16 rows of weights; sums are of high and of low weights
static void mix_eight(const float* const* weights, int offset, int rows, int size, const uint16_t* const* values, int blocks,
                      float* sums, uint16_t* room) {
    alignas(64) float c[4][256];
    int slots = blocks * SLOTS;
    for (int r = 0; r < 8; r++) {
        if (r < rows) split(weights[r] + offset, slots, room + size_t(r) * slots, room + size_t(8 + r) * slots);
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

static void scores(const float* q, int rows, int size, const uint16_t* const* keys, const uint16_t* const* values, int blocks,
                   float* const* out, int offset) {
    for (int r = 0; r < rows; r += 8) eight_scores(q + r * size, std::min(8, rows - r), size, keys, values, blocks, out + r, offset);
}

static void mix(const float* const* weights, int offset, int rows, int size, const uint16_t* const* values, int blocks, float* sums,
                uint16_t* room) {
    for (int r = 0; r < rows; r += 8)
        mix_eight(weights + r, offset, std::min(8, rows - r), size, values, blocks, sums + size_t(r) * 2 * size, room);
}
#endif
