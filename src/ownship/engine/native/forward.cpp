// The decoder's forward pass over a flat stream of tokens with a paged cache: what model/llama.py computes, for serving.
#include "attention.h"
#include "draw.h"
#include "products.h"
#include <sched.h>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

struct Net {
    int32_t layers, hidden, heads, kv_heads, size, wide, vocabulary;  // `size` of a head, `wide`: the MLP's
    int32_t format, table_bf16, threads;
    float eps;
    const void* embeddings;   // [vocabulary][hidden]
    const float* norms;       // [2 layers + 1][ld], filled up with zeros; ld as in Layout
    const float *cos, *sin;   // [positions][size / 2]
    const Matrix* matrices;   // per layer qkv, o, gate and up in turns of 16 columns, down; then the head, which is in int8 for int4 too
    void *keys, *values;      // [layers][blocks][kv_heads] blocks of 16 tokens, in float32 or bf16 as in attention.h
    int64_t blocks;
    int32_t cache_bf16;
};

struct Step {
    int32_t tokens, wanted, width, ld;  // N tokens; rows of logits; blocks per table; from one row of logits to the next
    const int32_t *ids, *positions; // [N]
    const int32_t* row;             // [N] which table
    const int32_t* tables;          // [rows][width] block numbers
    const int32_t* ends;            // [wanted] stream places whose logits are wanted
    float* logits;                  // [wanted][ld], of which the vocabulary's are written
    void* memory;                   // at least ownship_memory(...) bytes, 64-aligned
};

struct Layout {  // of the working memory
    int rows, ld, ld_qkv;  // ld of the residual stream: as wide as the inputs of the products with it
    struct Inputs { int ld; size_t staged, narrow, scales; } model, mlp;  // of products, as wide as the model or as the MLP
    size_t x, qkv, scores, total;
    static int rows_together(const Net& net) { return TOGETHER * (net.heads / net.kv_heads); }
    static size_t per_thread(const Net& net) { return up(Room<float>::floats(rows_together(net), net.size), 16); }
    Layout(const Net& net, int tokens) {
        rows = up(tokens, 32);
        ld = up(std::max(net.hidden, net.heads * net.size), GROUP);
        ld_qkv = up((net.heads + 2 * net.kv_heads) * net.size, UNIT);
        size_t at = 0;
        auto take = [&](size_t bytes) { size_t here = at; at += (bytes + 63) / 64 * 64; return here; };
        x = take(size_t(rows) * ld * 4);
        for (auto [inputs, width] : {std::pair(&model, ld), std::pair(&mlp, up(net.wide, GROUP))})
            inputs->ld = width + GROUP,  // rows a power of two apart would fall on the same lines of the processor's cache
            inputs->staged = take(size_t(rows) * inputs->ld * 4), inputs->narrow = take(size_t(rows) * inputs->ld * 2),
            inputs->scales = take(size_t(rows) * (inputs->ld / FINE) * 2 * 4);
        qkv = take(size_t(rows) * ld_qkv * 4);
        scores = take(size_t(net.threads) * per_thread(net) * 4);
        total = at;
    }
};

class Barrier {
    std::atomic<int> arrived{0}, round{0};
    const int threads;
public:
    explicit Barrier(int n) : threads(n) {}
    void wait() {
        if (threads == 1) return;
        int mine = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(mine + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == mine;)
            if (++spins > 4000) sched_yield(); else __builtin_ia32_pause();
    }
};

template <class T>
class Pass {  // T: what the cache holds
    const Net& net;
    const Step& step;
    const Layout at;
    const Format format, head;
    char* const memory;
    Barrier barrier;
    std::vector<std::atomic<int>> counters;

    float* x(int m) { return (float*)(memory + at.x) + size_t(m) * at.ld; }
    float* qkv(int m) { return (float*)(memory + at.qkv) + size_t(m) * at.ld_qkv; }
    Rows rows(const Layout::Inputs& to) {
        return {memory + (whole_numbers(format) || (AMX && format == BF16) ? to.narrow : to.staged), (float*)(memory + to.scales), to.ld};
    }

    // 16 inputs of the next product; whole numbers wait in float32 until quantise()
    void stage(const Layout::Inputs& to, int m, int column, v16 y) {
        if (AMX && format == BF16) store((uint16_t*)(memory + to.narrow) + size_t(m) * to.ld + column, narrow(y));
        else store((float*)(memory + to.staged) + size_t(m) * to.ld + column, format == BF16 ? widen(narrow(y)) : y);
    }

    // Row m of M, of so many inputs. One that is not finite makes its scale NaN, and so the results.
    void quantise(Format format, const Layout::Inputs& to, int m, int M, int width) {
        float* y = (float*)(memory + to.staged) + size_t(m) * to.ld;
        if (whole_numbers(format)) std::fill(y + width, y + up(width, GROUP), 0.f);
        if (format == INT4) quantise_coarsely(to, y, m, width);
        else if (whole_numbers(format)) quantise_finely(to, y, m, M, width, format == INT8 ? 127 * 256 + 127 : MOST);
    }

    void quantise_coarsely(const Layout::Inputs& to, const float* y, int m, int width) {  // to 8 bits, one scale for 32
        int8_t* out = (int8_t*)(memory + to.narrow) + size_t(m) * to.ld;
        float* scales = (float*)(memory + to.scales) + size_t(m) * (to.ld / FINE) * 2;
        for (int g = 0; g < up(width, GROUP) / FINE; g++, y += FINE, out += FINE) {
            const v16 parts[2] = {load<v16>(y), load<v16>(y + 16)};
            const auto [scale, inverse] = scale_of(parts, 2, 127);
            const i16v low = nearest(parts[0] * inverse), high = nearest(parts[1] * inverse);
            store(out, bytes(low));
            store(out + 16, bytes(high));
            scales[2 * g] = scale;
            scales[2 * g + 1] = scale * sum(floats(low + high));  // of whole numbers: exact
        }
    }

    void quantise_finely(const Layout::Inputs& to, const float* y, int m, [[maybe_unused]] int M, int width, float limit) {
        // to 16 bits, one scale for 64
        int16_t* out = (int16_t*)(memory + to.narrow) + size_t(m) * to.ld;
        [[maybe_unused]] int8_t* high = (int8_t*)(memory + to.narrow) + (size_t(m / 8) * 16 + m % 8) * to.ld;  // Rows: with AMX
        float* scales = (float*)(memory + to.scales) + size_t(m) * (to.ld / GROUP);
        for (int g = 0; g < up(width, GROUP) / GROUP; g++) {
            v16 parts[GROUP / 16];
            for (int i = 0; i < GROUP / 16; i++) parts[i] = load<v16>(y + g * GROUP + 16 * i);
            const auto [scale, inverse] = scale_of(parts, GROUP / 16, limit);
            scales[g] = scale;
            for (int i = g * GROUP; i < (g + 1) * GROUP; i += 16) {
                i16v q = nearest(parts[i % GROUP / 16] * inverse);
#if WITH_AMX
                if (M >= BYTES) {
                    i16v top = (q + 128) >> 8;
                    store(high + i, __builtin_convertvector(top, b16));
                    store(high + 8 * to.ld + i, __builtin_convertvector(q - (top << 8), b16));
                    continue;
                }
#endif
                store(out + i, shorts(q));
            }
        }
    }

    // All that is staged is there, rounded if the format asks for it.
    void prepared(const Layout::Inputs& to, int width, int thread) {
        barrier.wait();
        if (!whole_numbers(format)) return;
        for (int m = thread; m < step.tokens; m += net.threads) quantise(format, to, m, step.tokens, width);
        barrier.wait();
    }

    void normalise(const float* in, const float* weight, int m) {
        v16 squares{};
        for (int i = 0; i < at.ld; i += 16) { v16 v = load<v16>(in + i); squares += v * v; }
        float scale = 1 / std::sqrt(sum(squares) / net.hidden + net.eps);
        for (int i = 0; i < at.ld; i += 16) stage(at.model, m, i, load<v16>(in + i) * scale * load<v16>(weight + i));
    }

    T* block(void* store, int layer, int64_t number, int head) {
        return (T*)store + (((int64_t)layer * net.blocks + number) * net.kv_heads + head) * net.size * SLOTS;
    }

    void rotate(float* v, int position, float scale) {  // the halves (a, b) → (a cos − b sin, b cos + a sin)
        const float *c = net.cos + size_t(position) * (net.size / 2), *s = net.sin + size_t(position) * (net.size / 2);
        int half = net.size / 2, i = 0;
        for (; i + 16 <= half; i += 16) {
            v16 a = load<v16>(v + i), b = load<v16>(v + i + half), cosine = load<v16>(c + i), sine = load<v16>(s + i);
            store(v + i, (a * cosine - b * sine) * scale);
            store(v + i + half, (b * cosine + a * sine) * scale);
        }
        for (; i < half; i++) {
            float a = v[i], b = v[i + half];
            v[i] = (a * c[i] - b * s[i]) * scale;
            v[i + half] = (b * c[i] + a * s[i]) * scale;
        }
    }

    int64_t home(int m) { return step.tables[(size_t)step.row[m] * step.width + step.positions[m] / SLOTS]; }

    void remember(int m, int layer) {  // rotates queries and keys; keys and values go to the cache
        float* here = qkv(m);
        int position = step.positions[m], slot = position % SLOTS;
        int64_t number = home(m);
        if (m + 1 < step.tokens)  // a key's features lie in as many cache lines: the next token's are asked for
            for (int i = 0; i < net.kv_heads * net.size; i += 2)
                __builtin_prefetch(block(net.keys, layer, home(m + 1), 0) + i * SLOTS, 1, 2);
        for (int h = 0; h < net.heads; h++) rotate(here + h * net.size, position, 1 / std::sqrt((float)net.size));
        for (int h = 0; h < net.kv_heads; h++) {
            float *key = here + (net.heads + h) * net.size, *value = key + net.kv_heads * net.size;
            rotate(key, position, 1);
            keep(block(net.keys, layer, number, h), block(net.values, layer, number, h), slot, net.size, key, value);
        }
    }

    void clear(int m, int layer) {  // the values of a block that token m begins: slots nobody has written are multiplied by zero
        if (step.positions[m] % SLOTS == 0)
            std::memset(block(net.values, layer, home(m), 0), 0, sizeof(T) * net.kv_heads * net.size * SLOTS);
    }

    // The attention of tokens [begin, end), at most TOGETHER of them, for one key/value head. Blocks that several of them have
    // (one prompt's tokens, or a group that shares its prompt) are read once for all.
    void attend(int begin, int end, int head, int layer, const Room<T>& room) {
        const int count = end - begin, group = net.heads / net.kv_heads, size = net.size;
        auto blocks = [&](int token) { return step.positions[token] / SLOTS + 1; };
        auto table = [&](int token) { return step.tables + (size_t)step.row[token] * step.width; };
        const T *keys[BLOCKS], *values[BLOCKS];
        auto find = [&](int token, int from, int to) {
            for (int b = from; b < to; b++) {
                keys[b - from] = block(net.keys, layer, table(token)[b], head);
                values[b - from] = block(net.values, layer, table(token)[b], head);
            }
        };
        auto soon = [&](int n) {
            Soon list{{}, n, size * SLOTS * int(sizeof(T))};
            std::copy(values, values + n, list.blocks);
            return list;
        };
        int most = 0;
        for (int i = 0; i < count; i++) {
            most = std::max(most, blocks(begin + i));
            for (int g = 0; g < group; g++)
                place(room.queries + PARTS<T> * (i * group + g) * size, qkv(begin + i) + (head * group + g) * size, size);
        }
        begin_rows(room, count * group, size);
        for (int from = 0; from < most; from += BLOCKS)
            for (int first = begin, last; first < end; first = last) {
                // tokens [first, last) begin this stretch with the same `shared` blocks
                last = first + 1;
                int shared = std::min(BLOCKS, blocks(first) - from);
                if (shared <= 0) continue;
                bool one = true;  // sequence
                for (; last < end; last++) {
                    int equal = 0, limit = std::min(std::min(blocks(first), blocks(last)) - from, BLOCKS);
                    bool same = step.row[last] == step.row[first];
                    if (one && same) equal = std::max(shared, std::min(BLOCKS, blocks(last) - from));
                    else while (equal < std::min(limit, shared) && table(first)[from + equal] == table(last)[from + equal]) equal++;
                    if (equal <= 0) break;
                    one = one && same;
                    shared = equal;
                }
                const int r = (first - begin) * group, rows = (last - first) * group;
                find(first, from, from + shared);
                score(room, r, rows, size, keys, soon(shared), shared, 0);
                for (int token = first; token < last; token++)
                    if (int more = std::min(BLOCKS, blocks(token) - from) - shared; more > 0) {
                        find(token, from + shared, from + shared + more);
                        score(room, (token - begin) * group, group, size, keys, soon(more), more, shared);
                    }
                for (int token = first; token < last; token++)
                    for (int g = 0; g < group; g++)
                        soften(room, (token - begin) * group + g,
                               std::clamp(step.positions[token] + 1 - from * SLOTS, 0, STRETCH), shared * SLOTS);
                find(first, from, from + shared);
                mix(room, r, rows, size, values, shared, 0, true, upcoming(begin, end, last, from, most, head, layer));
                for (int token = first; token < last; token++)
                    if (int more = std::min(BLOCKS, blocks(token) - from) - shared; more > 0) {
                        find(token, from + shared, from + shared + more);
                        mix(room, (token - begin) * group, group, size, values, more, shared, false, Soon{});
                    }
                for (int i = r; i < r + rows; i++) gather(room, i, size);
            }
        for (int r = 0; r < count * group; r++) {
            float scale = 1 / room.total[r];
            for (int e = 0; e < size; e += 16)
                stage(at.model, begin + r / group, (head * group + r % group) * size + e, load<v16>(room.out + r * size + e) * scale);
        }
    }

    // The keys that are needed after those of the stretch `from` of tokens before `last`.
    Soon upcoming(int begin, int end, int last, int from, int most, int head, int layer) {
        if (last == end) {
            last = begin;
            from += BLOCKS;
            if (from >= most) {
                from = 0;
                if (++head == net.kv_heads) { head = 0; last = end; }
            }
        }
        Soon list{{}, 0, net.size * SLOTS * int(sizeof(T))};
        if (last < step.tokens)
            for (int b = from; b < from + BLOCKS && b <= step.positions[last] / SLOTS; b++)
                list.blocks[list.count++] = block(net.keys, layer, step.tables[(size_t)step.row[last] * step.width + b], head);
        return list;
    }

public:
    Pass(const Net& net, const Step& step)
        : net(net), step(step), at(net, std::max(step.tokens, step.wanted)), format(Format(net.format)),
          head(format == INT4 ? INT8 : format), memory((char*)step.memory), barrier(net.threads),
          counters((size_t(net.layers) * 5 + 1) * net.threads) {}

    void run(int thread) {
        Tiles tiles;
        const Room<T> room((float*)(memory + at.scores) + size_t(thread) * at.per_thread(net), at.rows_together(net), net.size);
        const int M = step.tokens, pieces = (M + TOGETHER - 1) / TOGETHER;
        auto* next = counters.data();
        auto share = [&](int count, int width) {
            Pieces pieces(next, net.threads, thread, count, width);
            next += net.threads;
            return pieces;
        };
        for (int m = thread; m < M; m += net.threads) {
            float* here = x(m);
            size_t from = size_t(step.ids[m]) * net.hidden;
            for (int i = 0; i < net.hidden; i++)
                here[i] = net.table_bf16 ? from_bits(uint32_t(((const uint16_t*)net.embeddings)[from + i]) << 16)
                                         : ((const float*)net.embeddings)[from + i];
            for (int i = net.hidden; i < at.ld; i++) here[i] = 0;
        }
        auto share_of = [&](int t) { return int(int64_t(M) * t / net.threads); };
        auto normal = [&](int which) {
            for (int m = thread; m < M; m += net.threads) {
                normalise(x(m), net.norms + size_t(which) * at.ld, m);
                quantise(format, at.model, m, M, net.hidden);
            }
            barrier.wait();
        };
        for (int layer = 0; layer < net.layers; layer++) {
            const Matrix* w = net.matrices + 4 * layer;
            for (int m = thread; m < M; m += net.threads) clear(m, layer);
            normal(2 * layer);
            multiply(format, rows(at.model), M, w[0], share, [&](int m, int unit, const float* c) {
                std::memcpy(qkv(m) + unit * UNIT, c, UNIT * 4);
            });
            barrier.wait();
            for (int m = share_of(thread); m < share_of(thread + 1); m++) remember(m, layer);  // neighbours share cache lines
            barrier.wait();
            tiles.for_attention();
            Pieces items = share(pieces * net.kv_heads, 1);
            for (int i; (i = items.next()) >= 0;) {
                int begin = i / net.kv_heads * TOGETHER;
                attend(begin, std::min(begin + TOGETHER, M), i % net.kv_heads, layer, room);
            }
            tiles.for_matrices();
            prepared(at.model, net.heads * net.size, thread);
            auto add = [&](int m, int unit, const float* c) {
                float* here = x(m) + unit * UNIT;
                int columns = std::min(UNIT, at.ld - unit * UNIT);
                for (int i = 0; i < columns; i += 16) store(here + i, load<v16>(here + i) + load<v16>(c + i));
            };
            multiply(format, rows(at.model), M, w[1], share, add);
            barrier.wait();
            normal(2 * layer + 1);
            multiply(format, rows(at.model), M, w[2], share, [&](int m, int unit, const float* c) {
                stage(at.mlp, m, unit * 16, silu(load<v16>(c)) * load<v16>(c + 16));
            });
            prepared(at.mlp, net.wide, thread);
            multiply(format, rows(at.mlp), M, w[3], share, add);
            barrier.wait();
        }
        if (!step.wanted) return;
        for (int m = thread; m < step.wanted; m += net.threads) {
            normalise(x(step.ends[m]), net.norms + size_t(2 * net.layers) * at.ld, m);
            quantise(head, at.model, m, step.wanted, net.hidden);
        }
        barrier.wait();
        multiply(head, rows(at.model), step.wanted, net.matrices[4 * net.layers], share, [&](int m, int unit, const float* c) {
            int columns = std::min(UNIT, net.vocabulary - unit * UNIT);
            std::memcpy(step.logits + size_t(m) * step.ld + unit * UNIT, c, columns * 4);
        });
    }
};

template <class T> static void forward(const Net& net, const Step& step) {
    Pass<T> pass(net, step);
#pragma omp parallel num_threads(net.threads)
    {
#ifdef _OPENMP
        int thread = omp_get_thread_num();
#else
        int thread = 0;
#endif
        pass.run(thread);
    }
}

extern "C" {

int ownship_prepare() {  // asks the kernel for AMX; 1 if this build can run here
#if WITH_AMX && defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 1;
#endif
}

// Whether the cache is to be in bf16. Weights in bf16 are what a learner has, whose probabilities are to be met: a tenth closer in float32
// (docs/log.md). AMX works on bf16 only, if on heads of this size.
int ownship_cache_bf16(int format, int size) { return AMX ? format != F32 && size % 32 == 0 && size <= 512 : format >= INT8; }

int64_t ownship_memory(const Net* net, int tokens) { return Layout(*net, tokens).total; }

int64_t ownship_packed_bytes(int format, int n, int k) { return int64_t(up(n, UNIT) / UNIT) * unit_bytes(Format(format), k); }

int64_t ownship_packed_scales(int format, int n, int k) {
    return format != INT4 && whole_numbers(Format(format)) ? int64_t(up(n, UNIT)) * (up(k, GROUP) / GROUP) : 0;
}

void ownship_pack(int format, int bf16, const void* weights, int n, int k, void* packed, float* scales, int threads) {
    pack(format, bf16, weights, n, k, packed, scales, threads);
}

// A token for each row of logits [rows][ld], of n that count: ids and log-probabilities [rows]; scales are 1 / temperature, 0 is greedy.
void ownship_draw(const float* logits, int rows, int n, int ld, const float* scales, const double* uniforms, int32_t* ids,
                  double* logprobs, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int row = 0; row < rows; row++) {
        std::vector<double> sums(n / PART + 1);
        draw(logits + size_t(row) * ld, n, scales[row], uniforms[row], sums.data(), ids + row, logprobs + row);
    }
}

void ownship_forward(const Net* net, const Step* step) {
    if (net->cache_bf16) forward<uint16_t>(*net, *step);
    else forward<float>(*net, *step);
}

}
