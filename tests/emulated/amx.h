// AMX for processors without it. Its instructions are compiled as they are; the processor does not know them and says so by a
// signal, whose handler does what Intel's manual (volume 2, TILELOADD and the like) says of them: so what the compiler makes of the
// intrinsics is tested too. Where the system grants AMX nothing of this is used, and the processor does them itself.
#pragma once
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#pragma GCC target("amx-tile,amx-int8,amx-bf16")  // and their macros

namespace emulated {

struct Configuration { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; };
struct Tiles { Configuration is; alignas(64) uint8_t data[8][16][64]; };
static thread_local Tiles tiles;
static struct sigaction before;

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

static void read(int t, const char* from, int64_t stride) {
    need(fits(t), "a tile is read that is not configured");
    std::memset(tiles.data[t], 0, sizeof tiles.data[t]);
    for (int row = 0; row < tiles.is.rows[t]; row++) std::memcpy(tiles.data[t][row], from + row * stride, tiles.is.bytes[t]);
}
static void write(int t, char* to, int64_t stride) {
    need(fits(t), "a tile is written that is not configured");
    for (int row = 0; row < tiles.is.rows[t]; row++) std::memcpy(to + row * stride, tiles.data[t][row], tiles.is.bytes[t]);
}

static void zero(int t) {
    need(fits(t), "a tile is cleared that is not configured");
    std::memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

static void multiply(bool bf16, int c, int a, int b) {  // c [m][n] += a [m][k fours of bytes] b [k][n fours of bytes]
    need(c != a && c != b && a != b && fits(a) && fits(b) && fits(c), "tiles of a product");
    const auto& rows = tiles.is.rows;
    const auto& bytes = tiles.is.bytes;
    need(rows[c] == rows[a] && bytes[c] == bytes[b] && bytes[a] == 4 * rows[b] && bytes[c] % 4 == 0, "tiles that do not fit each other");
    if (bf16) _mm_setcsr(0x9fc0);  // numbers below the normal ones are 0; nearest, halves to even. Return from the signal undoes it
    for (int m = 0; m < rows[c]; m++) {
        if (bf16) {
            float sums[16], even[16] = {}, odd[16] = {};
            for (int k = 0; k < rows[b]; k++) {
                uint32_t x, y[16];
                std::memcpy(&x, tiles.data[a][m] + 4 * k, 4);
                std::memcpy(y, tiles.data[b][k], 64);
                auto number = [](uint32_t bits) { float z; std::memcpy(&z, &bits, 4); return z; };
                for (int n = 0; n < 16; n++) {
                    even[n] = __builtin_fmaf(number(x << 16), number(y[n] << 16), even[n]);
                    odd[n] = __builtin_fmaf(number(x & 0xffff0000), number(y[n] & 0xffff0000), odd[n]);
                }
            }
            std::memcpy(sums, tiles.data[c][m], 64);
            for (int n = 0; n < 16; n++) sums[n] += even[n] + odd[n];
            std::memcpy(tiles.data[c][m], sums, bytes[c]);
        } else {
            uint32_t sums[16];
            std::memcpy(sums, tiles.data[c][m], 64);
            for (int k = 0; k < rows[b]; k++) for (int n = 0; n < 16; n++) for (int i = 0; i < 4; i++)
                sums[n] += uint32_t(int8_t(tiles.data[a][m][4 * k + i]) * int8_t(tiles.data[b][k][4 * n + i]));
            std::memcpy(tiles.data[c][m], sums, bytes[c]);
        }
    }
}

// One instruction: a prefix (VEX) of three bytes, one that says which, its operands. False if it is none of ours.
static bool perform(greg_t* registers) {
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const uint8_t *code = (const uint8_t*)registers[REG_RIP], *at = code + 5;
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || code[2] & 0x84) return false;  // map 0F38, W0, 128 bits
    const int mode = code[4] >> 6, first = code[4] >> 3 & 7, second = code[4] & 7, third = ~code[2] >> 3 & 15;
    const int which = code[3] << 4 | (code[2] & 3);  // the last digit: no further prefix, 66, F3 or F2
    if (mode == 3) {
        if (which == 0x490 && code[4] == 0xc0) configure({});
        else if (which == 0x493) zero(first);
        else if (which == 0x5c2) multiply(true, first, second, third);
        else if (which == 0x5e3) multiply(false, first, second, third);
        else return false;
        registers[REG_RIP] += 5;
        return true;
    }
    // memory: base + (index << scale) + displacement
    auto value = [&](int number, int bit) { return registers[order[number | (code[1] >> bit & 1 ? 0 : 8)]]; };
    const bool indexed = second == 4;
    int64_t stride = 0, place = 0;
    int base = second;
    if (indexed) {
        const int index = *at >> 3 & 7;
        if (index != 4 || !(code[1] & 0x40)) stride = value(index, 6) << (*at >> 6);
        base = *at++ & 7;
    }
    if (mode == 0 && base == 5) return false;  // no base: compilers have no use for that here
    place = value(base, 5);
    if (mode == 1) place += int8_t(*at++);
    if (mode == 2) { int32_t far; std::memcpy(&far, at, 4); place += far; at += 4; }
    if (which == 0x490 && first == 0) configure(*(const Configuration*)(place + stride));
    else if (which == 0x491 && first == 0) std::memcpy((void*)(place + stride), &tiles.is, sizeof tiles.is);
    else if (which == 0x4b3 && indexed) read(first, (const char*)place, stride);
    else if (which == 0x4b2 && indexed) write(first, (char*)place, stride);
    else return false;
    registers[REG_RIP] = (greg_t)at;
    return true;
}

static void unknown(int, siginfo_t*, void* context) {
    if (!perform(((ucontext_t*)context)->uc_mcontext.gregs)) sigaction(SIGILL, &before, nullptr);  // whose signal comes again
}

static long grant(long number, int code, int feature) {
    if (syscall(number, code, feature) == 0) return 0;
    struct sigaction now = {};
    now.sa_sigaction = unknown;
    now.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, nullptr, &before);
    return sigaction(SIGILL, &now, nullptr);
}

}

#define syscall emulated::grant  // by which the kernels ask for AMX
