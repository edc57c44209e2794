// How fast are the engine's matrix products by themselves? One thread, the matrices of the 135M network in turn.
//
//     g++ -O3 -std=c++17 -march=native -fopenmp -Wno-psabi -I src/ownship/model/native bench/products.cpp -o /tmp/products
//     /tmp/products int8 64        (float32, bf16, int8 or int4; rows)     -> milliseconds and GOP/s, medians of 9
#include "../src/ownship/engine/native/products.h"
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class T> static T* aligned(size_t count) { return (T*)std::aligned_alloc(64, (count * sizeof(T) / 64 + 129) * 64); }

int main(int count, char** words) {
    const std::string name = count == 3 ? words[1] : "";
    const int M = count == 3 ? std::atoi(words[2]) : 0;
    if (M < 1 || (name != "float32" && name != "bf16" && name != "int8" && name != "int4"))
        return std::puts("products float32|bf16|int8|int4 ROWS"), 2;
#if WITH_AMX
    return std::puts("AMX multiplies otherwise than these inputs are laid out"), 2;
#endif
    const Format format = name == "float32" ? F32 : name == "bf16" ? BF16 : name == "int8" ? INT8 : INT4;
    std::vector<std::pair<int, int>> sizes;
    for (int layer = 0; layer < 30; layer++) sizes.insert(sizes.end(), {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}});
    sizes.push_back({49152, 576});
    std::vector<Matrix> matrices;
    double operations = 0;
    for (auto [n, k] : sizes) {
        const size_t bytes = unit_bytes(format, k) * (n / UNIT), scales = size_t(n) * (k / GROUP);
        char* data = aligned<char>(bytes);
        for (size_t i = 0; i < bytes; i++) data[i] = format == INT8 ? char(std::rand()) : 0x3c;  // 0x3c3c is 0.01 in bf16
        float* widths = aligned<float>(scales);
        std::fill(widths, widths + scales, 1e-3f);
        matrices.push_back({data, widths, n, k});
        operations += 2.0 * n * k * M;
    }
    const int widest = 1536 + GROUP;
    float* inputs = aligned<float>(size_t(M + 8) * widest);
    float* scales = aligned<float>(size_t(M + 8) * widest / FINE * 2);
    float* out = aligned<float>(size_t(M) * (49152 + 112));
    for (size_t i = 0; i < size_t(M + 8) * widest; i++) inputs[i] = float(std::rand() % 2001 - 1000) / 1000;
    std::fill(scales, scales + size_t(M + 8) * widest / FINE * 2, 1e-3f);
    std::vector<double> times;
    for (int round = 0; round < 9; round++) {
        const double start = now();
        for (const Matrix& matrix : matrices) {
            std::atomic<int> taken[1] = {};
            multiply(format, Rows{inputs, scales, matrix.k + GROUP}, M, matrix,
                     [&](int pieces, int width) { return Pieces(taken, 1, 0, pieces, width); },
                     [&](int m, int unit, const float* c) { std::memcpy(out + size_t(m) * (matrix.n + 112) + unit * UNIT, c, UNIT * 4); });
        }
        times.push_back(now() - start);
    }
    std::sort(times.begin(), times.end());
    std::printf("%s, %d rows: %.1f ms, %.1f GOP/s\n", name.c_str(), M, 1e3 * times[4], operations / times[4] / 1e9);
}
