// What AMX does to its tiles, as Intel's manual says (volume 2, LDTILECFG, TILELOADD, TDPBF16PS and the like); by calls.h or
// instructions.h the kernels come here.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1

namespace emulated {

struct Configuration { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; };
struct Tiles { Configuration is; alignas(64) uint8_t data[8][16][64]; };
static thread_local Tiles tiles;

[[noreturn]] static void fault(const char* why) {  // where a processor would raise an exception
    std::fprintf(stderr, "emulated AMX: %s\n", why);
    std::abort();
}
static void need(bool so, const char* otherwise) { if (!so) fault(otherwise); }

static void configure(const Configuration& to) {
    static const Configuration none{};
    need(to.palette <= 1 && !std::memcmp(to.reserved, none.reserved, sizeof none.reserved), "unknown palette");
    for (int i = 0; i < 16 && to.palette; i++)
        need(i < 8 ? to.rows[i] <= 16 && to.bytes[i] <= 64 && !to.rows[i] == !to.bytes[i] : !to.rows[i] && !to.bytes[i], "size of a tile");
    tiles.is = to.palette ? to : none;
    std::memset(tiles.data, 0, sizeof tiles.data);
}

static bool fits(int t) { return tiles.is.palette && t < 8 && tiles.is.rows[t]; }

static void read(int t, const void* from, int64_t stride) {
    need(fits(t), "a tile is read that is not configured");
    std::memset(tiles.data[t], 0, sizeof tiles.data[t]);
    for (int row = 0; row < tiles.is.rows[t]; row++) std::memcpy(tiles.data[t][row], (const char*)from + row * stride, tiles.is.bytes[t]);
}
static void write(int t, void* to, int64_t stride) {
    need(fits(t), "a tile is written that is not configured");
    for (int row = 0; row < tiles.is.rows[t]; row++) std::memcpy((char*)to + row * stride, tiles.data[t][row], tiles.is.bytes[t]);
}

static void zero(int t) {
    need(fits(t), "a tile is cleared that is not configured");
    std::memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

// c [m][n] += a [m][k] b [k][n]: elements of a and b are four whole numbers or two bf16, of c one number of four bytes
[[gnu::noinline]] static void multiply_fitting(bool bf16, int c, int a, int b) {
    for (int m = 0; m < tiles.is.rows[c]; m++) for (int half = 0; half < 64; half += 32) {  // what lies beyond the columns stays 0
        __m256i* to = (__m256i*)(tiles.data[c][m] + half);
        __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
        __m256i sums = *to;
        for (int k = 0; k < tiles.is.rows[b]; k++) {
            uint32_t x;
            std::memcpy(&x, tiles.data[a][m] + 4 * k, 4);
            const __m256i y = *(const __m256i*)(tiles.data[b][k] + half);
            if (bf16) {
                even = _mm256_fmadd_ps((__m256)_mm256_set1_epi32(x << 16), (__m256)_mm256_slli_epi32(y, 16), even);
                odd = _mm256_fmadd_ps((__m256)_mm256_set1_epi32(x & 0xffff0000), (__m256)(y & _mm256_set1_epi32(0xffff0000)), odd);
            } else for (int i = 0; i < 4; i++)
                sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(_mm256_set1_epi32(int8_t(x >> 8 * i)),
                                                                 _mm256_srai_epi32(_mm256_slli_epi32(y, 24 - 8 * i), 24)));
        }
        *to = bf16 ? (__m256i)_mm256_add_ps((__m256)*to, _mm256_add_ps(even, odd)) : sums;
    }
}

static void multiply(bool bf16, int c, int a, int b) {
    need(c != a && c != b && a != b && fits(a) && fits(b) && fits(c), "tiles of a product");
    const auto& rows = tiles.is.rows;
    const auto& bytes = tiles.is.bytes;
    need(rows[c] == rows[a] && bytes[c] == bytes[b] && bytes[a] == 4 * rows[b] && bytes[c] % 4 == 0, "tiles that do not fit each other");
    const unsigned before = _mm_getcsr();
    _mm_setcsr(0x9fc0);  // numbers below the normal ones are 0; to nearest, halves to even
    multiply_fitting(bf16, c, a, b);
    _mm_setcsr(before);
}

}
