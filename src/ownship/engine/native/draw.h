// Drawing a token from a row of logits.
#pragma once
#include "vectors.h"

constexpr int PART = 256;  // entries of the vocabulary that are summed as one

// e^((x - top) scale) summed over each stretch of a row of logits [n]; returns the whole.
static double stretches_of(const float* x, int n, float top, float scale, double* sums) {
    double total = 0;
    for (int at = 0, i = 0; at < n; at += PART, i++) {
        int end = at + PART < n ? at + PART : n, j = at;
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
        int last = (n - 1) / PART, i = 0;
        while (i < last && before + sums[i] <= level) before += sums[i++];
        while (i > 0 && sums[i] == 0) before -= sums[--i];  // rounding led past the last that has any weight
        int found = -1;
        for (int k = i * PART; k < n && k < (i + 1) * PART; k++) {
            float weight = exponential(splat((x[k] - top) * scale))[0];
            if (weight > 0) found = k;
            before += weight;
            if (weight > 0 && before > level) break;
        }
        *id = found < 0 ? 0 : found;  // logits that are not numbers have no token; but memory is not to be read by them
    }
    *logprob = double(x[*id]) - top - std::log(raw);
}
