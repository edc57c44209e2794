// AMX's instructions as the compiler makes them of its own intrinsics. A processor that does not know them says so by a signal, whose
// handler does what they ask for. That is slow (10 µs each). Where the system grants AMX the processor does them itself.
#pragma once
#include <csignal>
#include <ucontext.h>

#pragma GCC target("amx-tile,amx-int8,amx-bf16")

namespace emulated {

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

static struct sigaction before;

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
