// The one pass on the CPU: plan in, normalised NHWC batch out. Loaded by cpu_pass.py through ctypes, which lets go of
// the GIL; it knows nothing of Python or torch. `reference.py` defines what is computed.
//
// One row of one sample is the unit of work: read to three float planes that fit the first-level cache, colour steps
// and rectangles on those, then normalise, interleave and write, so that every output pixel is written once. Threads
// take whole samples. A batch that mixes goes row by row over all samples instead: each sample's row is read once
// though two outputs need it.
//
// The arithmetic stands once, in cpu_pass_level.h, over a small set of vector functions. It is compiled three times in
// this file (AVX-512, AVX2, and the compiler's portable vectors, which also serve aarch64), and the best level that
// the processor has is taken at run time: one binary for all machines, no flags to get wrong.

#include "cpu_pass.h"
#include "cpu_pass_pool.h"


#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define END_TARGET PRAGMA(GCC pop_options)
#endif

namespace engine {

namespace generic {
#include "cpu_pass_generic.h"
#include "cpu_pass_level.h"
}  // namespace generic

#if defined(__x86_64__)
BEGIN_TARGET("avx2,fma,f16c")
namespace avx2 {
#include "cpu_pass_avx2.h"
#include "cpu_pass_level.h"
}  // namespace avx2
END_TARGET

BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace avx512 {
#include "cpu_pass_avx512.h"
#include "cpu_pass_level.h"
}  // namespace avx512
END_TARGET
#endif

static const Level* levels(int index) {
    switch (index) {
        case 0: return &generic::level;
#if defined(__x86_64__)
        case 1:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::level : nullptr;
        case 2:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                    && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                    && __builtin_cpu_supports("avx512vnni")
                ? &avx512::level : nullptr;
#endif
        default: return nullptr;
    }
}

// --- one sample ------------------------------------------------------------------------------------------------------

static float clamp(float x, float low, float high) { return !(x > low) ? low : x > high ? high : x; }  // NaN: low

// Output point to source point; false where there is none.
static bool locate(const float* m, float x, float y, float& u, float& v) {
    float w = m[6] * x + m[7] * y + m[8];
    u = (m[0] * x + m[1] * y + m[2]) / w;
    v = (m[3] * x + m[4] * y + m[5]) / w;
    return w > 0 && std::fabs(u) <= MAX_COORDINATE && std::fabs(v) <= MAX_COORDINATE;
}

static void set_footprint(Sample& s, const Arguments& a) {
    const float* m = s.matrix;
    s.fx = s.fy = 1;
    float x = float(a.width) / 2, y = float(a.height) / 2, u, v;
    if (!a.antialias || a.filter == NEAREST || !locate(m, x, y, u, v)) return;
    float w = m[6] * x + m[7] * y + m[8];
    s.fx = clamp(std::hypot(m[0] - u * m[6], m[1] - u * m[7]) / w, 1, MAX_FOOTPRINT);
    s.fy = clamp(std::hypot(m[3] - v * m[6], m[4] - v * m[7]) / w, 1, MAX_FOOTPRINT);
}

static void choose_reader(Sample& s, const Arguments& a) {
    const float* m = s.matrix;
    const float right = float(a.width) - 0.5f, bottom = float(a.height) - 0.5f;
    bool affine = m[6] == 0 && m[7] == 0 && m[8] == 1;
    float low_u = INFINITY, high_u = -INFINITY;
    s.checked = !affine;
    for (int corner = 0; corner < 4; corner++) {
        float u, v;
        if (!locate(m, corner & 1 ? right : 0.5f, corner & 2 ? bottom : 0.5f, u, v)) s.checked = true;
        low_u = std::fmin(low_u, u), high_u = std::fmax(high_u, u);
    }
    if (!s.checked) s.ahead = std::lround(PREFETCH_ROWS * m[4]) * s.stride + 3 * std::lround(PREFETCH_ROWS * m[1]);
    const int sides = a.filter == BICUBIC ? 2 : 1;
    s.nx = a.filter == NEAREST ? 1 : int(std::ceil(2 * sides * s.fx));
    s.ny = a.filter == NEAREST ? 1 : int(std::ceil(2 * sides * s.fy));
    bool aligned = !s.checked && a.filter != NEAREST && m[1] == 0 && m[3] == 0;
    if (aligned && s.border == REFLECT) {  // bounds the columns kept; farther out is rare
        aligned = low_u > -float(s.width) && high_u < 2 * float(s.width);
    }
    s.reader = aligned ? READ_ALIGNED : s.nx <= 2 && s.ny <= 2 ? READ_2X2 : READ_TAPS;
    s.prefetch_rows = int(std::ceil(std::fmin(s.fy, 8.0f)));
}

static Sample make_sample(const Arguments& a, int b) {
    Sample s = {};
    s.pixels = reinterpret_cast<const uint8_t*>(a.image_B[b]);
    s.height = a.size_B2[2 * b], s.width = a.size_B2[2 * b + 1];
    s.stride = 3 * int64_t(s.width), s.bytes = s.stride * s.height;
    std::memcpy(s.matrix, a.matrix_B33 + 9 * b, sizeof s.matrix);
    s.filter = a.filter;
    s.border = a.border_B ? a.border_B[b] : CONSTANT;
    if (a.border_color_B3) std::memcpy(s.color, a.border_color_B3 + 3 * b, sizeof s.color);
    s.op_K = a.steps ? a.color_op_BK + int64_t(b) * a.steps : nullptr;
    s.arg_K = a.steps ? a.color_arg_BK + int64_t(b) * a.steps : nullptr;
    set_footprint(s, a);
    choose_reader(s, a);
    return s;
}

// CONTRAST's means: a look at LOOK x LOOK points of the output, taken through the same steps.
static void look(const Sample& s, const Arguments& a, const Level& level, Scratch& scratch) {
    int last = a.steps - 1;
    while (last >= 0 && s.op_K[last] != CONTRAST) last--;
    if (last < 0) return;
    constexpr int count = LOOK * LOOK, pitch = count + 16;
    float* rgb = scratch.look.get<float>(3 * pitch);
    Sample plain = s;
    plain.fx = plain.fy = 1;
    plain.nx = plain.ny = s.filter == NEAREST ? 1 : 2;
    plain.filter = s.filter == NEAREST ? NEAREST : BILINEAR;
    plain.reader = READ_2X2;
    const float x_step = float(a.width) / LOOK, y_step = float(a.height) / LOOK;
    for (int j = 0; j < LOOK; j++) {
        level.read_row(plain, (float(j) + 0.5f) * y_step, x_step, LOOK, scratch, rgb + j * LOOK, pitch);
    }
    for (int k = 0; k <= last; k++) {
        if (s.op_K[k] == CONTRAST) s.mean_K[k] = level.mean_luma(rgb, pitch, count);
        if (k < last) level.color_step(s.op_K[k], s.arg_K[k], s.mean_K[k], rgb, pitch, count);
    }
}

static uint32_t mix_bits(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static void fill_rectangles(const Arguments& a, int b, int y, float* rgb, int pitch) {
    for (int r = 0; r < a.rects; r++) {
        const int64_t at = int64_t(b) * a.rects + r;
        const int32_t *corner = a.rect_BR4 + 4 * at, fill = a.rect_fill_BR[at];
        const int x0 = corner[0] < 0 ? 0 : corner[0], x1 = corner[2] > a.width ? a.width : corner[2];
        if (fill == FILL_NONE || y < corner[1] || y >= corner[3] || x0 >= x1) continue;
        if (fill == FILL_NOISE) {
            const uint32_t seed = mix_bits(a.noise_seed_B ? uint32_t(a.noise_seed_B[b]) : 0);
            for (int c = 0; c < 3; c++)
                for (int x = x0; x < x1; x++) {
                    uint32_t pixel = uint32_t(y) * uint32_t(a.width) + uint32_t(x);
                    rgb[c * pitch + x] = float(mix_bits(seed ^ (3 * pixel + uint32_t(c))) >> 8) * 0x1p-24f;
                }
        } else if (fill == FILL_CONSTANT || fill == FILL_MEAN) {
            for (int c = 0; c < 3; c++) {
                float color = fill == FILL_MEAN ? a.mean[c] : a.rect_color_BR3 ? a.rect_color_BR3[3 * at + c] : 0;
                for (int x = x0; x < x1; x++) rgb[c * pitch + x] = color;
            }
        }
    }
}

// --- the batch -------------------------------------------------------------------------------------------------------

// What the pass keeps between batches.
struct Engine {
    explicit Engine(int threads) : pool(threads) {}
    Pool pool;
    Buffer samples, means, columns;
};

struct Pass {
    const Arguments& a;
    const Level& level;
    Engine& engine;
    Sample* sample_B;
    float scale[3], shift[3];
    int pitch, element;
    bool streaming;

    // Everything of sample b that rows share: its look and its columns.
    void prepare(int b, Scratch& scratch) const {
        look(sample_B[b], a, level, scratch);
        if (sample_B[b].reader == READ_ALIGNED) level.prepare_columns(sample_B[b], a.width, scratch);
    }

    // Row y of sample b before normalisation and mixing.
    void make_row(int b, int y, Scratch& scratch, float* rgb) const {
        const Sample& s = sample_B[b];
        level.read_row(s, float(y) + 0.5f, 1, a.width, scratch, rgb, pitch);
        for (int k = 0; k < a.steps; k++) level.color_step(s.op_K[k], s.arg_K[k], s.mean_K[k], rgb, pitch, a.width);
        fill_rectangles(a, b, y, rgb, pitch);
    }

    void write_row(int b, int y, const float* rgb) const {
        int64_t at = (int64_t(b) * a.height + y) * a.width * 3;
        void* to = static_cast<char*>(a.out_BHW3) + at * element;
        level.finish_row(rgb, pitch, a.width, scale, shift, a.dtype, streaming, to);
    }

    // Rows [from, to) of sample b.
    void plain(int b, int from, int to, Scratch& scratch) const {
        float* rgb = scratch.row.get<float>(3 * size_t(pitch));
        for (int y = from; y < to; y++) {
            make_row(b, y, scratch, rgb);
            write_row(b, y, rgb);
        }
        level.finish_writing();
    }

    // Row y of all samples, mixed.
    void mixed(int y, Scratch& scratch) const {
        const size_t size = 3 * size_t(pitch);
        float* rows = scratch.rows.get<float>(a.batch * size);
        float* rgb = scratch.row.get<float>(size);
        for (int b = 0; b < a.batch; b++) make_row(b, y, scratch, rows + b * size);
        for (int b = 0; b < a.batch; b++) {
            const float *own = rows + b * size, *other = rows + a.partner_B[b] * size;
            const float weight = a.weight_B ? a.weight_B[b] : 1;
            const int32_t none[4] = {0, 0, 0, 0}, *box = a.box_B4 ? a.box_B4 + 4 * b : none;
            const int x0 = box[0] < 0 ? 0 : box[0], x1 = box[2] > a.width ? a.width : box[2];
            const bool in_box = y >= box[1] && y < box[3] && x0 < x1;
            if (weight == 1 && !in_box) {
                write_row(b, y, own);
                continue;
            }
            level.blend_rows(rgb, own, other, weight, pitch, a.width);
            if (in_box) {
                for (int c = 0; c < 3; c++)
                    std::memcpy(rgb + c * pitch + x0, other + c * pitch + x0, (x1 - x0) * sizeof(float));
            }
            write_row(b, y, rgb);
        }
        level.finish_writing();
    }

    void run() const {
        const int threads = engine.pool.threads();
        if (a.partner_B) {
            engine.pool.run(a.batch, [&](int b, Scratch& scratch) { prepare(b, scratch); });
            engine.pool.run(a.height, [&](int y, Scratch& scratch) { mixed(y, scratch); });
        } else if (a.batch >= 4 * threads || threads == 1) {
            engine.pool.run(a.batch, [&](int b, Scratch& scratch) {
                prepare(b, scratch);
                plain(b, 0, a.height, scratch);
            });
        } else {  // few samples: bands of rows, so that all threads have work to the end
            const int bands = 4 * threads;
            engine.pool.run(a.batch, [&](int b, Scratch& scratch) { prepare(b, scratch); });
            engine.pool.run(a.batch * bands, [&](int i, Scratch& scratch) {
                const int64_t band = i % bands;
                plain(i / bands, int(band * a.height / bands), int((band + 1) * a.height / bands), scratch);
            });
        }
    }
};

static Pass make_pass(const Arguments& a, const Level& level, Engine& engine) {
    const int element = a.dtype == FLOAT32 ? 4 : 2;
    Pass pass{a, level, engine, engine.samples.get<Sample>(a.batch), {}, {}, padded(a.width), element, false};
    for (int c = 0; c < 3; c++) pass.scale[c] = 1 / a.std[c], pass.shift[c] = -a.mean[c] / a.std[c];
    // A batch larger than the caches is written around them: that saves reading each line before it is written.
    pass.streaming = int64_t(a.batch) * a.height * a.width * 3 * element > (int64_t(4) << 20);

    const size_t pad = size_t(padded(a.width));
    size_t numbers = 0;
    for (int b = 0; b < a.batch; b++) {
        pass.sample_B[b] = make_sample(a, b);
        if (pass.sample_B[b].reader == READ_ALIGNED) numbers += (1 + pass.sample_B[b].nx) * pad;
    }
    float* mean_BK = engine.means.get<float>(size_t(a.batch) * (a.steps + 1));
    float* next = engine.columns.get<float>(numbers);
    std::memset(mean_BK, 0, size_t(a.batch) * a.steps * sizeof(float));
    for (int b = 0; b < a.batch; b++) {
        Sample& s = pass.sample_B[b];
        s.mean_K = mean_BK + int64_t(b) * a.steps;
        if (s.reader != READ_ALIGNED) continue;
        s.first_W = reinterpret_cast<int32_t*>(next);
        s.weight_W = next + pad;
        next += (1 + s.nx) * pad;
    }
    return pass;
}

// One engine a process. After a fork the child has none of its threads and makes a new one.
static std::mutex* guard = new std::mutex;
static Engine* the_engine = nullptr;
static int wanted_threads = 1;

static void forget_in_child() {
    guard = new std::mutex;
    the_engine = nullptr;
}

}  // namespace engine

extern "C" {

#define EXPORT __attribute__((visibility("default")))

// Changes with struct Arguments, so that a library built from other sources is refused.
EXPORT int engine_cpu_pass_version() { return 1; }

// The best level this processor has: 0 generic, 1 avx2, 2 avx512.
EXPORT int engine_cpu_pass_best_level() {
    int best = 0;
    for (int i = 1; i < 3; i++)
        if (engine::levels(i)) best = i;
    return best;
}

EXPORT void engine_cpu_pass_set_threads(int threads) {
    using namespace engine;
    static bool registered = pthread_atfork(nullptr, nullptr, forget_in_child) == 0;
    (void)registered;
    std::lock_guard<std::mutex> lock(*guard);
    if (the_engine && threads != the_engine->pool.threads()) {
        delete the_engine;
        the_engine = nullptr;
    }
    wanted_threads = threads;
}

// 0, or 1 when memory ran out, 2 when the level is not to be had here.
EXPORT int engine_cpu_pass(const engine::Arguments* arguments) {
    using namespace engine;
    const Level* level = levels(arguments->level);
    if (!level) return 2;
    std::lock_guard<std::mutex> lock(*guard);  // one batch at a time; each uses all threads
    try {
        if (!the_engine) the_engine = new Engine(wanted_threads);
        make_pass(*arguments, *level, *the_engine).run();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // extern "C"
