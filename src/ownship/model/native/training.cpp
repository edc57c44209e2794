// What a layer does besides its large products, forward and backward, each in one pass over memory; attention with its products.
//
// Numbers come and go in float32 or bf16 and are computed with in float32. Sums run in a fixed order: the same input gives the
// same bits, whatever the number of threads.
#include <algorithm>
#include <vector>
#include "fixed.h"
#include "vectors.h"

template <class T> static inline v16 get(const T* p);
template <> inline v16 get(const float* p) { return load<v16>(p); }
template <> inline v16 get(const uint16_t* p) { return widen(load<h16>(p)); }
static inline void set(float* p, v16 x) { store(p, x); }
static inline void set(uint16_t* p, v16 x) { store(p, narrow(x)); }
static inline float one(const float* p) { return *p; }
static inline float one(const uint16_t* p) { return from_bits(uint32_t(*p) << 16); }

// f(i, x...) for all n numbers of rows, 16 at a time; the rest of a row that is no multiple goes through a padded copy.
template <class F, class G> static inline void by_16(int n, F whole, G single) {
    int i = 0;
    for (; i + 16 <= n; i += 16) whole(i);
    for (; i < n; i++) single(i);
}

// ---- products of small matrices in float32: C [M][N] (+)= A [M][K] B [K][N]; A's element (m, k) is a[m * row + k * step]

template <int R, int V> static inline void tile(const float* a, size_t row, size_t step, const float* b, size_t ldb, int k, float* c,
                                                size_t ldc, bool add) {
    v16 sums[R][V];
    for (int r = 0; r < R; r++) for (int v = 0; v < V; v++) sums[r][v] = add ? load<v16>(c + r * ldc + 16 * v) : v16{};
    for (int i = 0; i < k; i++, a += step, b += ldb) {
        v16 x[V];
        for (int v = 0; v < V; v++) x[v] = load<v16>(b + 16 * v);
        for (int r = 0; r < R; r++) for (int v = 0; v < V; v++) sums[r][v] += a[r * row] * x[v];
    }
    for (int r = 0; r < R; r++) for (int v = 0; v < V; v++) store(c + r * ldc + 16 * v, sums[r][v]);
}

template <int V> static void columns(int M, int k, const float* a, size_t row, size_t step, const float* b, size_t ldb, float* c,
                                     size_t ldc, bool add) {
    int m = 0;
    for (; m + 6 <= M; m += 6) tile<6, V>(a + m * row, row, step, b, ldb, k, c + m * ldc, ldc, add);
    a += m * row; c += m * ldc;
    switch (M - m) {
        case 5: return tile<5, V>(a, row, step, b, ldb, k, c, ldc, add);
        case 4: return tile<4, V>(a, row, step, b, ldb, k, c, ldc, add);
        case 3: return tile<3, V>(a, row, step, b, ldb, k, c, ldc, add);
        case 2: return tile<2, V>(a, row, step, b, ldb, k, c, ldc, add);
        case 1: return tile<1, V>(a, row, step, b, ldb, k, c, ldc, add);
    }
}

static void product(int M, int N, int k, const float* a, size_t row, size_t step, const float* b, size_t ldb, float* c, size_t ldc,
                    bool add) {  // N a multiple of 16
    int n = 0;
    if (WIDE) for (; n + 64 <= N; n += 64) columns<4>(M, k, a, row, step, b + n, ldb, c + n, ldc, add);
    for (; n < N; n += 16) columns<1>(M, k, a, row, step, b + n, ldb, c + n, ldc, add);
}

// ---- attention

constexpr int PANEL = 64;   // keys side by side
constexpr int QUERIES = 48;  // rows of queries at a time: those of all heads that share their keys, for some tokens

struct Row { int32_t start, stop, prefix_start, prefix_stop; };  // model/attention.py

struct Attention {  // as in training.py
    int32_t heads, kv_heads, size, bf16, units, threads;
    const Row* rows;
    const int32_t* ends;  // [units] where each unit's rows end: one row, or a prompt and the rows that see it
    const void *q, *k, *v;  // [N][heads][size], [N][kv_heads][size] twice
    void* out;              // [N][heads][size]
    float* normalizers;     // [N][heads][2] largest score, 1 / sum of the exponentials less it: together in one number they would be rounded
    const void* grad;       // [N][heads][size]
    void *q_grad, *k_grad, *v_grad;
};

struct Memory {  // of one thread, kept
    std::vector<float> numbers;
    float* take(size_t& at, size_t n) { float* p = numbers.data() + at; at += up(int(n), 16); return p; }
};

template <class T> class Head {  // one head of keys and values of one unit
    const Attention& of;
    const int head, group, size, tokens, width;
    float *keys, *key_panels, *values, *value_panels, *key_grads, *value_grads;  // [T][E], panels [T / 64][E][64]
    float *queries, *above, *scores, *inner, *result;                            // [M][E] or [M][T]

public:
    Head(const Attention& of, int head, int longest, Memory& memory, bool backward)
        : of(of), head(head), group(of.heads / of.kv_heads), size(of.size), tokens(std::max(1, QUERIES / group)),
          width(up(longest, PANEL) + 16) {  // rows a power of two apart would fall on the same lines of the cache
        const size_t all = size_t(width) * size, block = size_t(tokens) * group * size, square = size_t(tokens) * group * width;
        const size_t need = all * 6 + block * 3 + square * 2 + 16 * 12;
        if (memory.numbers.size() < need) memory.numbers.assign(need * 5 / 4, 0.f);
        size_t at = 0;
        key_panels = memory.take(at, all); values = memory.take(at, all);
        queries = memory.take(at, block); above = memory.take(at, block); result = memory.take(at, block);
        scores = memory.take(at, square); inner = memory.take(at, square);
        value_panels = keys = key_grads = value_grads = nullptr;
        if (backward) {
            value_panels = memory.take(at, all); keys = memory.take(at, all);
            key_grads = memory.take(at, all); value_grads = memory.take(at, all);
        }
    }

    void read(int start, int stop, int to) {  // keys and values of these tokens
        for (int t = start; t < stop; t++, to++) {
            const size_t from = (size_t(t) * of.kv_heads + head) * size;
            const T *k = (const T*)of.k + from, *v = (const T*)of.v + from;
            float* column = key_panels + size_t(to / PANEL) * PANEL * size + to % PANEL;
            for (int e = 0; e < size; e++) column[e * PANEL] = one(k + e);
            for (int e = 0; e < size; e += 16) set(values + size_t(to) * size + e, get(v + e));
            if (keys) {
                float* other = value_panels + size_t(to / PANEL) * PANEL * size + to % PANEL;
                for (int e = 0; e < size; e++) other[e * PANEL] = one(v + e);
                for (int e = 0; e < size; e += 16) set(keys + size_t(to) * size + e, get(k + e));
                std::memset(key_grads + size_t(to) * size, 0, size * 4);
                std::memset(value_grads + size_t(to) * size, 0, size * 4);
            }
        }
    }

    void forward(const Row& row, int before) {  // `before` keys of a prefix lie in front of the row's own
        for (int begin = row.start; begin < row.stop; begin += tokens) {
            const int end = std::min(begin + tokens, row.stop), M = (end - begin) * group, seen = before + end - row.start;
            rows(of.q, begin, end, queries, 1 / std::sqrt(float(size)));
            against(queries, key_panels, M, seen, scores);
            for (int m = 0; m < M; m++) {
                float* s = scores + size_t(m) * width;
                const int live = before + begin + m / group - row.start + 1, padded = up(live, 16);
                for (int t = live; t < std::max(padded, seen); t++) s[t] = -INFINITY;
                v16 high = splat(-INFINITY), total{};
                for (int t = 0; t < padded; t += 16) high = max(high, load<v16>(s + t));
                const float top = largest(high);
                for (int t = 0; t < padded; t += 16) { v16 y = exponential(load<v16>(s + t) - top); total += y; store(s + t, y); }
                for (int t = padded; t < seen; t++) s[t] = 0;
                float* normalizer = normalizers(begin, m);
                normalizer[0] = top; normalizer[1] = 1 / sum(total);
            }
            product(M, size, seen, scores, width, 1, values, size, result, size, false);
            for (int m = 0; m < M; m++) {
                T* to = (T*)of.out + (size_t(begin + m / group) * of.heads + head * group + m % group) * size;
                for (int e = 0; e < size; e += 16) set(to + e, load<v16>(result + size_t(m) * size + e) * normalizers(begin, m)[1]);
            }
        }
    }

    void backward(const Row& row, int before) {
        const float root = 1 / std::sqrt(float(size));
        for (int begin = row.start; begin < row.stop; begin += tokens) {
            const int end = std::min(begin + tokens, row.stop), M = (end - begin) * group, seen = before + end - row.start;
            rows(of.q, begin, end, queries, root);
            rows(of.grad, begin, end, above, 1);
            against(queries, key_panels, M, seen, scores);
            against(above, value_panels, M, seen, inner);
            for (int m = 0; m < M; m++) {
                float *s = scores + size_t(m) * width, *d = inner + size_t(m) * width;
                const int live = before + begin + m / group - row.start + 1, padded = up(live, 16);
                const float top = normalizers(begin, m)[0], share = normalizers(begin, m)[1];
                for (int t = live; t < std::max(padded, seen); t++) { s[t] = -INFINITY; d[t] = 0; }
                v16 along{};
                for (int t = 0; t < padded; t += 16) {
                    v16 y = exponential(load<v16>(s + t) - top) * share;
                    along += y * load<v16>(d + t);
                    store(s + t, y);
                }
                const float mean = sum(along);
                for (int t = 0; t < padded; t += 16) store(d + t, load<v16>(s + t) * (load<v16>(d + t) - mean));
                for (int t = padded; t < seen; t++) s[t] = d[t] = 0;
            }
            product(seen, size, M, scores, 1, width, above, size, value_grads, size, true);
            product(seen, size, M, inner, 1, width, queries, size, key_grads, size, true);
            product(M, size, seen, inner, width, 1, keys, size, result, size, false);
            for (int m = 0; m < M; m++) {
                T* to = (T*)of.q_grad + (size_t(begin + m / group) * of.heads + head * group + m % group) * size;
                for (int e = 0; e < size; e += 16) set(to + e, load<v16>(result + size_t(m) * size + e) * root);
            }
        }
    }

    void write(int start, int stop, int from) {  // gradients of these tokens' keys and values
        for (int t = start; t < stop; t++, from++) {
            const size_t to = (size_t(t) * of.kv_heads + head) * size;
            for (int e = 0; e < size; e += 16) {
                set((T*)of.k_grad + to + e, load<v16>(key_grads + size_t(from) * size + e));
                set((T*)of.v_grad + to + e, load<v16>(value_grads + size_t(from) * size + e));
            }
        }
    }

private:
    float* normalizers(int begin, int m) {
        return of.normalizers + 2 * (size_t(begin + m / group) * of.heads + head * group + m % group);
    }

    void rows(const void* x, int begin, int end, float* to, float factor) {  // [end - begin][group][E], times the factor
        for (int t = begin; t < end; t++) {
            const T* from = (const T*)x + (size_t(t) * of.heads + head * group) * size;
            for (int e = 0; e < group * size; e += 16, to += 16) set(to, get(from + e) * factor);
        }
    }

    void against(const float* x, const float* panels, int M, int seen, float* to) {  // products of rows [M][E] with what was seen
        for (int t = 0; t < seen; t += PANEL)
            product(M, std::min(PANEL, up(seen - t, 16)), size, x, size, 1, panels + size_t(t) * size, PANEL, to + t, width, false);
    }
};

template <class T> static void attention(const Attention& of, bool backward) {
    int longest = 0;
    for (int r = 0; r < of.ends[of.units - 1]; r++) {
        const Row& row = of.rows[r];
        longest = std::max(longest, row.stop - row.start + row.prefix_stop - row.prefix_start);
    }
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(of.threads)
    for (int unit = 0; unit < of.units; unit++) for (int h = 0; h < of.kv_heads; h++) {
        static thread_local Memory memory;
        Head<T> head(of, h, longest, memory, backward);
        const int first = unit ? of.ends[unit - 1] : 0;
        const Row& prompt = of.rows[first];
        const int before = prompt.stop - prompt.start;
        for (int r = first; r < of.ends[unit]; r++) {
            const Row& row = of.rows[r];
            const int place = r == first ? 0 : before;
            head.read(row.start, row.stop, place);
            if (backward) head.backward(row, place); else head.forward(row, place);
            if (backward && r > first) head.write(row.start, row.stop, place);
        }
        if (backward) head.write(prompt.start, prompt.stop, 0);
    }
}

// ---- norms, activations, positions

constexpr int PARTS = 16;  // stretches of rows whose sums are added up in the end

template <class X, class W> static void norm(const X* x, const W* weight, float eps, int n, int size, W* out, float* scales, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < n; i++) {
        const X* from = x + size_t(i) * size;
        W* to = out + size_t(i) * size;
        v16 squares{}; float rest = 0;
        by_16(size, [&](int e) { v16 y = get(from + e); squares += y * y; }, [&](int e) { rest += one(from + e) * one(from + e); });
        const float scale = scales[i] = 1 / std::sqrt((sum(squares) + rest) / size + eps);
        by_16(size, [&](int e) { set(to + e, get(from + e) * scale * get(weight + e)); },
              [&](int e) { put(to + e, one(from + e) * scale * one(weight + e)); });
    }
}

template <class X, class W> static void norm_backward(const X* x, const W* weight, const float* scales, const W* grad, int n, int size,
                                                      X* x_grad, float* weight_grad, int threads) {
    std::vector<float> sums(size_t(PARTS) * size);
    const int length = (n + PARTS - 1) / PARTS;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int part = 0; part < PARTS; part++) {
        float* mine = sums.data() + size_t(part) * size;
        for (int i = part * length; i < std::min(n, (part + 1) * length); i++) {
            const X* from = x + size_t(i) * size;
            const W* pull = grad + size_t(i) * size;
            X* to = x_grad + size_t(i) * size;
            const float scale = scales[i];
            v16 dots{}; float rest = 0;
            by_16(size, [&](int e) {
                v16 unit = get(from + e) * scale, g = get(pull + e);
                store(mine + e, load<v16>(mine + e) + g * unit);
                dots += g * get(weight + e) * unit;
            }, [&](int e) {
                float unit = one(from + e) * scale, g = one(pull + e);
                mine[e] += g * unit;
                rest += g * one(weight + e) * unit;
            });
            const float along = (sum(dots) + rest) / size;
            by_16(size, [&](int e) { set(to + e, (get(pull + e) * get(weight + e) - get(from + e) * scale * along) * scale); },
                  [&](int e) { put(to + e, (one(pull + e) * one(weight + e) - one(from + e) * scale * along) * scale); });
        }
    }
    for (int part = 1; part < PARTS; part++) for (int e = 0; e < size; e++) sums[e] += sums[size_t(part) * size + e];
    std::memcpy(weight_grad, sums.data(), size * 4);
}

static inline v16 sigmoid(v16 x) {
    v16 e = exponential(if_less(x, 0.f, x, -x));
    return if_less(x, 0.f, e, splat(1.f)) / (1.f + e);
}
static inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

constexpr int64_t PIECE = 1 << 13;  // numbers that one thread takes at a time

template <class T> static void swiglu(const T* gate, const T* up, int64_t n, T* out, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t at = 0; at < n; at += PIECE) {
        const T *g = gate + at, *u = up + at;
        T* to = out + at;
        by_16(int(std::min(PIECE, n - at)), [&](int i) { set(to + i, silu(get(g + i)) * get(u + i)); },
              [&](int i) { put(to + i, one(g + i) * sigmoid(one(g + i)) * one(u + i)); });
    }
}

template <class T> static void swiglu_backward(const T* gate, const T* up, const T* grad, int64_t n, T* gate_grad, T* up_grad, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t at = 0; at < n; at += PIECE) {
        const T *g = gate + at, *u = up + at, *d = grad + at;
        T *to_gate = gate_grad + at, *to_up = up_grad + at;
        auto both = [&](int i, auto x, auto y, auto pull, auto keep) {
            auto s = sigmoid(x);
            keep(to_up + i, pull * x * s);
            keep(to_gate + i, pull * y * s * (1.f + x * (1.f - s)));
        };
        by_16(int(std::min(PIECE, n - at)),
              [&](int i) { both(i, get(g + i), get(u + i), get(d + i), [](T* p, v16 z) { set(p, z); }); },
              [&](int i) { both(i, one(g + i), one(u + i), one(d + i), [](T* p, float z) { put(p, z); }); });
    }
}

// x [n][heads][size] turned by the angles whose cos and sin [n][size / 2] are given; `back` turns the other way
template <class X, class Y> static void rotate(const X* x, const float* cos, const float* sin, int n, int heads, int size, bool back, Y* out,
                                               int threads) {
    const int half = size / 2;
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < n; i++) for (int h = 0; h < heads; h++) {
        const X* from = x + (size_t(i) * heads + h) * size;
        Y* to = out + (size_t(i) * heads + h) * size;
        const float *c = cos + size_t(i) * half, *s = sin + size_t(i) * half;
        by_16(half, [&](int e) {
            v16 a = get(from + e), b = get(from + half + e), u = load<v16>(c + e), w = back ? -load<v16>(s + e) : load<v16>(s + e);
            set(to + e, a * u - b * w);
            set(to + half + e, b * u + a * w);
        }, [&](int e) {
            float a = one(from + e), b = one(from + half + e), w = back ? -s[e] : s[e];
            put(to + e, a * c[e] - b * w);
            put(to + half + e, b * c[e] + a * w);
        });
    }
}

// ---- the head: logits [n][size] of the vocabulary from `offset` on

// Adds these logits to what each row has seen so far: the largest logit, Σ exp(logit − largest), Σ exp(logit − largest) · logit, and
// the target's logit once it has come by.
static void scored(const float* logits, const int64_t* targets, int64_t offset, int n, int size, float* tops, float* totals, float* moments,
                   float* picked, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < n; i++) {
        const float* x = logits + size_t(i) * size;
        v16 high = splat(-INFINITY), total{}, moment{};
        float rest = tops[i], total_rest = 0, moment_rest = 0;
        by_16(size, [&](int e) { high = max(high, load<v16>(x + e)); }, [&](int e) { rest = std::max(rest, x[e]); });
        const float top = std::max(largest(high), rest), factor = std::exp(tops[i] - top);
        by_16(size, [&](int e) { v16 z = load<v16>(x + e), y = exponential(z - top); total += y; moment += y * z; },
              [&](int e) { float y = std::exp(x[e] - top); total_rest += y; moment_rest += y * x[e]; });
        tops[i] = top;
        totals[i] = totals[i] * factor + sum(total) + total_rest;
        moments[i] = moments[i] * factor + sum(moment) + moment_rest;
        if (targets[i] >= offset && targets[i] < offset + size) picked[i] = x[targets[i] - offset];
    }
}

// d loss / d logits from d loss / d logprob, in their place: grad · (onehot − p)
static void scored_backward(float* logits, const int64_t* targets, int64_t offset, const float* normalizers, const float* grads, int n,
                            int size, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < n; i++) {
        float* x = logits + size_t(i) * size;
        const float log = normalizers[i], pull = grads[i];
        by_16(size, [&](int e) { store(x + e, exponential(load<v16>(x + e) - log) * -pull); },
              [&](int e) { x[e] = std::exp(x[e] - log) * -pull; });
        if (targets[i] >= offset && targets[i] < offset + size) x[targets[i] - offset] += pull;
    }
}

extern "C" {

int ownship_prepare() { return 1; }

void ownship_attention(const Attention* of, int backward) {
    if (of->bf16) attention<uint16_t>(*of, backward); else attention<float>(*of, backward);
}

#if WITH_FIXED
// Strides of a [M][K] and b [K][N] in numbers: from row to row and from column to column.
void ownship_product(const void* a, int a_bf16, int64_t a_row, int64_t a_column, const void* b, int b_bf16, int64_t b_row,
                     int64_t b_column, int M, int N, int K, void* out, int out_bf16, int threads) {
    fixed_product({a, a_row, a_column, M, a_bf16}, {b, b_column, b_row, N, b_bf16}, K, out, out_bf16, threads);
}
#endif

void ownship_norm(const float* x, const void* weight, int bf16, float eps, int n, int size, void* out, float* scales, int threads) {
    if (bf16) norm(x, (const uint16_t*)weight, eps, n, size, (uint16_t*)out, scales, threads);
    else norm(x, (const float*)weight, eps, n, size, (float*)out, scales, threads);
}

void ownship_norm_backward(const float* x, const void* weight, int bf16, const float* scales, const void* grad, int n, int size,
                           float* x_grad, float* weight_grad, int threads) {
    if (bf16) norm_backward(x, (const uint16_t*)weight, scales, (const uint16_t*)grad, n, size, x_grad, weight_grad, threads);
    else norm_backward(x, (const float*)weight, scales, (const float*)grad, n, size, x_grad, weight_grad, threads);
}

void ownship_swiglu(const void* gate, const void* up, int bf16, int64_t n, void* out, int threads) {
    if (bf16) swiglu((const uint16_t*)gate, (const uint16_t*)up, n, (uint16_t*)out, threads);
    else swiglu((const float*)gate, (const float*)up, n, (float*)out, threads);
}

void ownship_swiglu_backward(const void* gate, const void* up, const void* grad, int bf16, int64_t n, void* gate_grad, void* up_grad,
                             int threads) {
    if (bf16) swiglu_backward((const uint16_t*)gate, (const uint16_t*)up, (const uint16_t*)grad, n, (uint16_t*)gate_grad,
                              (uint16_t*)up_grad, threads);
    else swiglu_backward((const float*)gate, (const float*)up, (const float*)grad, n, (float*)gate_grad, (float*)up_grad, threads);
}

void ownship_rotate(const void* x, int bf16, const float* cos, const float* sin, int n, int heads, int size, int back, void* out,
                    int threads) {
    if (!bf16) rotate((const float*)x, cos, sin, n, heads, size, back, (float*)out, threads);
    else rotate((const uint16_t*)x, cos, sin, n, heads, size, back, (uint16_t*)out, threads);
}

void ownship_scored(const float* logits, const int64_t* targets, int64_t offset, int n, int size, float* tops, float* totals,
                    float* moments, float* picked, int threads) {
    scored(logits, targets, offset, n, size, tops, totals, moments, picked, threads);
}

void ownship_scored_backward(float* logits, const int64_t* targets, int64_t offset, const float* normalizers, const float* grads, int n,
                             int size, int threads) {
    scored_backward(logits, targets, offset, normalizers, grads, n, size, threads);
}

}
