// What is done to each image of a batch, drawn: see draws.py, and engine/augment for what each number means.
//
// Every line follows the plain torch of engine/augment: the same operations in the same order in the same precision, so
// that the same numbers come out. Built without contraction of products and sums, which would round once less.

#include "draws.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <numeric>
#include <vector>

namespace draws {
namespace {

constexpr double RADIANS = 0.017453292519943295769236907684886;  // of a degree
constexpr int TRIES = 10;                                        // of a random crop and of random erasing
constexpr int MOST_STEPS = 16;                                   // operations that a sample orders by their numbers

enum Border : int32_t { CONSTANT, EDGE, REFLECT };
enum Filter : int32_t { NEAREST, BILINEAR, BICUBIC };
enum Geometry : int32_t { NONE, SHEAR_X, SHEAR_Y, SHIFT_X, SHIFT_Y, ROTATE };

// SplitMix64's finaliser (Steele, Lea and Flood 2014).
uint64_t mixed(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

float uniform(uint64_t state, int64_t address) {
    return float(mixed(state + uint64_t(address)) >> 40) * 0x1p-24f;
}

// The numbers of one sample, by column.
struct Numbers {
    uint64_t state;
    const int64_t* columns;

    float operator[](int at) const { return uniform(state, columns[at]); }
};

struct Matrix {
    double of[9];
};

constexpr Matrix IDENTITY = {{1, 0, 0, 0, 1, 0, 0, 0, 1}};

Matrix operator*(const Matrix& a, const Matrix& b) {
    Matrix product;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
            double sum = 0;
            for (int k = 0; k < 3; ++k) sum += a.of[3 * i + k] * b.of[3 * k + j];
            product.of[3 * i + j] = sum;
        }
    return product;
}

struct Size {
    double height, width;
};

struct Box {
    double x, y, width, height;
};

// --- geometry: engine/augment/geometry.py --------------------------------------------------------------------------

Matrix box_matrix(const Box& box, Size out) {
    return {{box.width / out.width, 0, box.x, 0, box.height / out.height, box.y, 0, 0, 1}};
}

Box fit_box(Crop fit, Size source, Size out) {
    double across = source.width, down = source.height;
    if (fit != STRETCH) {
        double x = source.width / out.width, y = source.height / out.height;
        double step = fit == LETTERBOX ? std::max(x, y) : std::min(x, y);
        across = step * out.width, down = step * out.height;
    }
    return {(source.width - across) / 2, (source.height - down) / 2, across, down};
}

Box random_box(const Program& program, const Numbers& draw, Size source) {
    int at = program.at_crop;
    double area = source.height * source.width;
    for (int i = 0; i < TRIES; ++i) {
        double part = area * (program.scale + program.scale_span * double(draw[at + i]));
        double aspect = std::exp(program.log_ratio + program.log_ratio_span * double(draw[at + TRIES + i]));
        double across = std::sqrt(part * aspect), down = std::sqrt(part / aspect);
        if (across <= source.width && down <= source.height) {
            double x = draw[at + 2 * TRIES], y = draw[at + 2 * TRIES + 1];
            return {(source.width - across) * x, (source.height - down) * y, across, down};
        }
    }
    double across = std::min(source.width, source.height * program.ratio_high);
    double down = std::min(source.height, source.width / program.ratio_low);
    return {(source.width - across) * 0.5, (source.height - down) * 0.5, across, down};
}

Matrix flips(bool horizontal, bool vertical, Size out) {
    double x = 1.0 - 2.0 * horizontal, y = 1.0 - 2.0 * vertical;
    return {{x, 0, horizontal * out.width, 0, y, vertical * out.height, 0, 0, 1}};
}

// From the turned source to the source, whose size becomes the turned one's.
Matrix quarter_turns(int turns, Size& source) {
    double c = double(turns == 0) - double(turns == 2), s = double(turns == 1) - double(turns == 3);
    double right = (turns == 1 || turns == 2) * source.width, down = (turns >= 2) * source.height;
    if (turns % 2 == 1) std::swap(source.height, source.width);
    return {{c, -s, right, s, c, down, 0, 0, 1}};
}

struct Linear {
    double p, q, r, s;
};

Linear linear(double scale, double angle, double shear_x, double shear_y) {
    double c = scale * std::cos(angle), s = scale * std::sin(angle);
    return {c + s * shear_y, c * shear_x + s * (1 + shear_x * shear_y), c * shear_y - s,
            c * (1 + shear_x * shear_y) - s * shear_x};
}

Matrix affine(const Linear& part, double shift_x, double shift_y, Size out) {
    double det = part.p * part.s - part.q * part.r;
    double a = part.s / det, b = -part.q / det, c = -part.r / det, d = part.p / det;
    double x = out.width / 2 + shift_x, y = out.height / 2 + shift_y;
    return {{a, b, out.width / 2 - a * x - b * y, c, d, out.height / 2 - c * x - d * y, 0, 0, 1}};
}

Matrix perspective(const double (&x)[4], const double (&y)[4], Size out) {
    double d1x = x[1] - x[2], d1y = y[1] - y[2], d2x = x[3] - x[2], d2y = y[3] - y[2];
    double sx = x[0] - x[1] + x[2] - x[3], sy = y[0] - y[1] + y[2] - y[3];
    double det = d1x * d2y - d2x * d1y;
    double g = (sx * d2y - d2x * sy) / det, h = (d1x * sy - sx * d1y) / det;
    double a = x[1] - x[0] + g * x[1], d = y[1] - y[0] + g * y[1];
    double b = x[3] - x[0] + h * x[3], e = y[3] - y[0] + h * y[3];
    double across = out.width, down = out.height;
    return {{a / across, b / down, x[0], d / across, e / down, y[0], g / across, h / down, 1}};
}

// --- the published policies: engine/augment/auto.py -----------------------------------------------------------------

struct Chosen {
    int operation;  // 0: none
    float arg;
};

Chosen choose(const Table& policy, const Numbers& draw, int slot) {
    float choice = draw[policy.at_operation + slot];
    int operation, bin = policy.magnitude;
    if (policy.kind == AUTOAUGMENT) {
        int row = int(draw[policy.at_operation] * float(policy.rows)), at = row * policy.slots + slot;
        operation = draw[policy.at_chance + slot] < policy.chance_PS[at] ? policy.op_PS[at] : 0;
        bin = policy.bin_PS[at];
    } else {
        operation = int(choice * float(policy.operations));
        if (policy.kind == TRIVIALAUGMENT) bin = int(draw[policy.at_strength + slot] * float(policy.bins));
    }
    const float* args_M = policy.args_OM + operation * policy.bins;
    bool turned = policy.signed_O[operation] && draw[policy.at_sign + slot] < 0.5f;
    return {operation, args_M[0] + (turned ? -1.0f : 1.0f) * (args_M[bin] - args_M[0])};
}

Matrix moved(int operation, double arg, Size out) {
    auto is = [&](Geometry one) { return operation == one ? arg : 0.0; };
    Linear part = linear(1, is(ROTATE) * RADIANS, is(SHEAR_X), is(SHEAR_Y));
    return affine(part, is(SHIFT_X) * out.width, is(SHIFT_Y) * out.height, out);
}

// --- one sample: engine/augment/policy.py --------------------------------------------------------------------------

// Whether column `at` says that something of this chance happens. What is not in use has no column.
bool happens(const Numbers& draw, int at, float chance) { return at >= 0 && draw[at] < chance; }

Box cropped(const Program& program, const Numbers& draw, Size source, Size out, bool& letterboxed) {
    letterboxed = draw[program.at_letterbox] < program.letterbox_p;
    if (letterboxed || program.crop == LETTERBOX) return fit_box(LETTERBOX, source, out);
    double left = 0;
    if (happens(draw, program.at_half, program.half_p)) {
        source.width *= 0.5;
        if (draw[program.at_half + 1] < 0.5f) left = source.width;
    }
    bool random = program.crop == RANDOM_RESIZED;
    Box box = random ? random_box(program, draw, source) : fit_box(Crop(program.crop), source, out);
    box.x += left;
    return box;
}

Matrix drawn_affine(const Program& program, const Numbers& draw, Size out) {
    int at = program.at_affine;
    double applied = draw[at] < program.affine_p ? 1.0 : 0.0;
    auto sway = [&](int i) { return (2 * double(draw[at + 1 + i]) - 1) * applied; };
    double scale = 1 + program.affine_scale * sway(0), angle = program.affine_rotate * sway(1) * RADIANS;
    double shear_x = std::tan(program.affine_shear * sway(2) * RADIANS);
    double shear_y = std::tan(program.affine_shear * sway(3) * RADIANS);
    double shift_x = program.affine_shift * sway(4) * out.width, shift_y = program.affine_shift * sway(5) * out.height;
    return affine(linear(scale, angle, shear_x, shear_y), shift_x, shift_y, out);
}

Matrix drawn_perspective(const Program& program, const Numbers& draw, Size out) {
    constexpr double CORNERS[4][2] = {{0, 0}, {1, 0}, {1, 1}, {0, 1}};
    int at = program.at_perspective;
    double applied = draw[at] < program.perspective_p ? 1.0 : 0.0;
    double x[4], y[4];
    auto place = [&](int i, int axis) {
        double move = (double(draw[at + 1 + 2 * i + axis]) - 0.5) * program.distortion * applied;
        return CORNERS[i][axis] + move;
    };
    for (int i = 0; i < 4; ++i) {
        x[i] = place(i, 0) * out.width;
        y[i] = place(i, 1) * out.height;
    }
    return perspective(x, y, out);
}

void draw_geometry(const Call& call, const Numbers& draw, int64_t i) {
    const Program& program = *call.program;
    Size source{double(call.size_B2[2 * i]), double(call.size_B2[2 * i + 1])};
    Size out{double(call.height), double(call.width)};
    Matrix turn = IDENTITY;
    if (program.at_quarter_turn >= 0) {
        bool turned = draw[program.at_quarter_turn] < program.quarter_turn_p;
        turn = quarter_turns(turned ? 1 + int(draw[program.at_quarter_turn + 1] * 3.0f) : 0, source);
    }
    bool letterboxed;
    Matrix matrix = box_matrix(cropped(program, draw, source, out, letterboxed), out);
    if (program.at_quarter_turn >= 0) matrix = turn * matrix;
    if (program.flip_p > 0 || program.vertical_flip_p > 0) {
        bool horizontal = draw[program.at_flip] < program.flip_p;
        bool vertical = draw[program.at_vertical_flip] < program.vertical_flip_p;
        matrix = matrix * flips(horizontal, vertical, out);
    }
    if (program.at_affine >= 0) matrix = matrix * drawn_affine(program, draw, out);
    if (program.at_perspective >= 0) matrix = matrix * drawn_perspective(program, draw, out);
    const Table& policy = program.policy;
    if (policy.kind != NO_POLICY) {
        Matrix chosen = IDENTITY;
        for (int slot = 0; slot < policy.slots; ++slot) {
            Chosen one = choose(policy, draw, slot);
            chosen = chosen * moved(policy.codes_O3[3 * one.operation], one.arg, out);
        }
        matrix = matrix * chosen;
    }
    for (int k = 0; k < 9; ++k) call.matrix_B33[9 * i + k] = float(matrix.of[k]);
    call.border_B[i] = letterboxed ? int32_t(CONSTANT) : program.border;
    std::copy_n(program.mean, 3, call.border_color_B3 + 3 * i);
}

// Indices of `count` numbers from the lowest to the highest; of equal ones the first comes first.
void in_order(const float* number, int count, int* order) {
    for (int i = 0; i < count; ++i) {
        int place = i;
        for (; place > 0 && number[order[place - 1]] > number[i]; --place) order[place] = order[place - 1];
        order[place] = i;
    }
}

// Colour steps, engine/augment/color.py: the policy's, the jitter's, the tones.
void draw_colors(const Program& program, const Numbers& draw, int32_t* op_K, float* arg_K) {
    for (int slot = 0; slot < program.policy.slots; ++slot) {
        Chosen one = choose(program.policy, draw, slot);
        *op_K++ = program.policy.codes_O3[3 * one.operation + 1];
        *arg_K++ = one.arg;
    }
    float place[MOST_STEPS];
    int order[MOST_STEPS];
    for (int i = 0; i < program.part_count; ++i) place[i] = draw[program.parts[i].order];
    in_order(place, program.part_count, order);
    bool applied = happens(draw, program.at_color, program.color_p);
    for (int i = 0; i < program.part_count; ++i) {
        const Part& part = program.parts[order[i]];
        *op_K++ = applied ? part.op : 0;
        *arg_K++ = part.low + part.span * draw[part.at];
    }
    for (int i = 0; i < program.tone_count; ++i) {
        const Tone& tone = program.tones[i];
        *op_K++ = draw[tone.at] < tone.chance ? tone.op : 0;
        if (tone.form == GIVEN) *arg_K++ = tone.low;
        if (tone.form == BETWEEN) *arg_K++ = tone.low + tone.span * draw[tone.at + 1];
        if (tone.form == WHOLE) *arg_K++ = tone.low + std::floor(draw[tone.at + 1] * tone.span);
    }
}

// What no rule for a pixel can express, engine/augment/extras.py: the policy's, then at most so many of the section's.
void draw_extras(const Program& program, const Numbers& draw, int32_t* op_E, float* arg_E) {
    for (int slot = 0; slot < program.policy.slots; ++slot) {
        Chosen one = choose(program.policy, draw, slot);
        *op_E++ = program.policy.codes_O3[3 * one.operation + 2];
        *arg_E++ = one.arg;
    }
    bool drawn[MOST_STEPS];
    float place[MOST_STEPS];
    int order[MOST_STEPS];
    for (int i = 0; i < program.extra_count; ++i) {
        const Extra& extra = program.extras[i];
        drawn[i] = draw[extra.at] < extra.chance;
        place[i] = drawn[i] ? draw[extra.at + 1] : 2.0f;
    }
    in_order(place, program.extra_count, order);
    for (int i = 0; i < program.most; ++i) {
        const Extra& extra = program.extras[order[i]];
        *op_E++ = drawn[order[i]] ? extra.op : 0;
        *arg_E++ = extra.low + extra.span * draw[extra.at + 2];
    }
}

// --- rectangles: engine/augment/rects.py ---------------------------------------------------------------------------

struct Rectangle {
    float x0, y0, x1, y1;
};

// Rounded to whole pixels and cut to the image.
void write(const Rectangle& one, float width, float height, int32_t* rect_4) {
    auto cut = [](float value, float limit) { return int32_t(std::clamp(std::nearbyint(value), 0.0f, limit)); };
    rect_4[0] = cut(one.x0, width), rect_4[1] = cut(one.y0, height);
    rect_4[2] = cut(one.x1, width), rect_4[3] = cut(one.y1, height);
}

// Of whole-pixel sides, every place in the image equally likely.
Rectangle placed(float across, float down, float x, float y, float width, float height) {
    float left = std::max(std::floor(x * (width - across + 1)), 0.0f);
    float top = std::max(std::floor(y * (height - down + 1)), 0.0f);
    return {left, top, left + across, top + down};
}

Rectangle erased(const Rects& kind, const Numbers& draw, int number, float width, float height) {
    int at = kind.at + 2 + 4 * number;
    auto side = [&](float u, float of) { return std::max(std::nearbyint((kind.low + kind.span * u) * of), 1.0f); };
    return placed(side(draw[at], width), side(draw[at + 1], height), draw[at + 2], draw[at + 3], width, height);
}

Rectangle random_erased(const Rects& kind, const Numbers& draw, int32_t out_height, int32_t out_width, bool& drawn) {
    float width = float(out_width), height = float(out_height), pixels = float(int64_t(out_height) * out_width);
    float across = 0, down = 0;
    bool fits = false;
    for (int i = 0; i < TRIES && !fits; ++i) {
        float area = (kind.low + kind.span * draw[kind.at + 1 + 2 * i]) * pixels;
        float aspect = float(std::exp(double(kind.log_ratio + kind.log_ratio_span * draw[kind.at + 2 + 2 * i])));
        float x = std::nearbyint(std::sqrt(area / aspect)), y = std::nearbyint(std::sqrt(area * aspect));
        fits = x < width && y < height;
        if (fits || i == 0) across = x, down = y;  // where none fits, the first stands there undrawn
    }
    drawn = drawn && fits;
    int at = kind.at + 1 + 2 * TRIES;
    return placed(across, down, draw[at], draw[at + 1], width, height);
}

Rectangle rectangle(const Rects& kind, const Numbers& draw, int number, int32_t height, int32_t width, bool& drawn) {
    float wide = float(width), high = float(height);
    drawn = draw[kind.at] < kind.chance;
    switch (kind.shape) {
        case ERASE: {
            float count = float(kind.fewest) + std::floor(draw[kind.at + 1] * float(kind.spread));
            drawn = drawn && float(number) < count;
            return erased(kind, draw, number, wide, high);
        }
        case RANDOM_ERASING: return random_erased(kind, draw, height, width, drawn);
        case CUTOUT: {
            float x = draw[kind.at + 1] * wide, y = draw[kind.at + 2] * high;
            float half = float(kind.side * std::min(height, width) / 2);
            return {x - half, y - half, x + half, y + half};
        }
        default: {
            float across = kind.low + kind.span * draw[kind.at + 1], down = kind.low + kind.span * draw[kind.at + 2];
            return {wide - across * wide, 0.0f, wide, down * high};
        }
    }
}

void draw_rects(const Call& call, const Numbers& draw, int64_t at) {
    const Program& program = *call.program;
    for (int i = 0; i < program.rect_count; ++i) {
        const Rects& kind = program.rects[i];
        for (int number = 0; number < kind.count; ++number, ++at) {
            bool drawn;
            Rectangle one = rectangle(kind, draw, number, call.height, call.width, drawn);
            write(one, float(call.width), float(call.height), call.rect_BR4 + 4 * at);
            call.rect_fill_BR[at] = drawn ? kind.fill : 0;
            std::copy_n(kind.color, 3, call.rect_color_BR3 + 3 * at);
        }
    }
}

// --- mixing: engine/augment/mix.py ---------------------------------------------------------------------------------

float beta_quantile(float p, const double* table, int intervals, double exponent) {
    double lower = std::min(p, 1.0f - p);
    double position = lower * (2 * intervals);
    int index = std::min(int(position), intervals - 1);
    double fraction = position - index;
    double x = std::pow(table[index] * (1 - fraction) + table[index + 1] * fraction, exponent);
    return float(p <= 0.5f ? x : 1 - x);
}

void cut_box(float own, float x, float y, float width, float height, int32_t* box_4) {
    float side = std::sqrt(1.0f - own);
    float half_x = std::floor(side * width) / 2, half_y = std::floor(side * height) / 2;
    float center_x = std::floor(x * width), center_y = std::floor(y * height);
    auto within = [](float value, float limit) { return int32_t(std::clamp(std::floor(value), 0.0f, limit)); };
    box_4[0] = within(center_x - half_x, width), box_4[1] = within(center_y - half_y, height);
    box_4[2] = within(center_x + half_x, width), box_4[3] = within(center_y + half_y, height);
}

// Everyone in a ring in the order of their hashes: the partner is the next one.
std::vector<int64_t> partners(const Call& call) {
    std::vector<int64_t> hash(call.batch), ring(call.batch), partner(call.batch);
    for (int i = 0; i < call.batch; ++i) {
        uint64_t state = mixed(uint64_t(call.key_B[i]) + uint64_t(call.epoch_address));
        hash[i] = int64_t(mixed(state + uint64_t(call.mixing->partner_address)));
    }
    std::iota(ring.begin(), ring.end(), 0);
    std::stable_sort(ring.begin(), ring.end(), [&](int64_t a, int64_t b) { return hash[a] < hash[b]; });
    for (int i = 0; i < call.batch; ++i) partner[ring[i]] = ring[(i + 1) % call.batch];
    return partner;
}

void draw_mix(const Call& call) {
    const Mixing& mixing = *call.mixing;
    uint64_t of_batch = 0;  // with one weight for the batch, its address is the set of keys in it
    if (mixing.per_batch)
        for (int i = 0; i < call.batch; ++i) {
            uint64_t state = mixed(uint64_t(call.key_B[i]) + uint64_t(call.epoch_address));
            of_batch += mixed(state + uint64_t(mixing.batch_address));
        }
    std::vector<int64_t> partner = partners(call);
    for (int i = 0; i < call.batch; ++i) {
        uint64_t key = mixing.per_batch ? of_batch : uint64_t(call.key_B[i]);
        Numbers draw{mixed(key + uint64_t(call.epoch_address)), mixing.columns};
        bool drawn = draw[0] < mixing.p, cut = drawn && draw[1] < mixing.cutmix_share;
        int32_t* box_4 = call.box_B4 + 4 * i;
        std::fill_n(box_4, 4, 0);
        call.weight_B[i] = 1.0f;
        if (cut) {
            float own = beta_quantile(draw[2], mixing.cutmix_table, mixing.intervals, mixing.cutmix_exponent);
            cut_box(own, draw[3], draw[4], float(call.width), float(call.height), box_4);
        } else if (drawn) {
            call.weight_B[i] = beta_quantile(draw[2], mixing.mixup_table, mixing.intervals, mixing.mixup_exponent);
        }
        call.partner_B[i] = drawn ? partner[i] : i;
    }
}

// The share of its own label that a sample keeps: its weight, outside the box's true area.
void mix_labels(const Call& call) {
    float pixels = float(int64_t(call.height) * call.width);
    for (int i = 0; i < call.batch; ++i) {
        float share = 1.0f;
        int64_t other = call.partner_B ? call.partner_B[i] : i;
        if (call.partner_B && call.weight_B) share *= call.weight_B[i];
        if (call.partner_B && call.box_B4) {
            const int32_t* box_4 = call.box_B4 + 4 * i;
            int32_t across = std::clamp(box_4[2], 0, call.width) - std::clamp(box_4[0], 0, call.width);
            int32_t down = std::clamp(box_4[3], 0, call.height) - std::clamp(box_4[1], 0, call.height);
            share *= 1.0f - float(std::max(across, 0) * std::max(down, 0)) / pixels;
        }
        call.own_B[i] = call.label_B[i];
        call.partner_label_B[i] = call.label_B[other];
        call.share_B[i] = share;
    }
}

// --- regions: engine/augment/regions.py ----------------------------------------------------------------------------

constexpr double FAR = 0x1p20;  // source pixels: beyond, executors see no source
constexpr int POINTS = 5, CENTRE = 4;

// What an output shows of a source along one axis, and how many source pixels one of its pixels spans there.
struct Seen {
    double low, high, span[POINTS];
};

// False where some of the output lies behind the horizon, or too far away.
bool see(const float* matrix_33, double width, double height, Seen (&axes)[2]) {
    const double xs[POINTS] = {0, width, 0, width, 0.5 * width}, ys[POINTS] = {0, 0, height, height, 0.5 * height};
    double m[9];
    std::copy_n(matrix_33, 9, m);
    for (Seen& seen : axes) seen.low = std::numeric_limits<double>::infinity(), seen.high = -seen.low;
    for (int i = 0; i < POINTS; ++i) {
        double w = m[6] * xs[i] + m[7] * ys[i] + m[8];
        if (!(w > 1e-6)) return false;
        for (int axis = 0; axis < 2; ++axis) {
            const double* row = m + 3 * axis;
            double at = (row[0] * xs[i] + row[1] * ys[i] + row[2]) / w;
            if (!(std::fabs(at) < FAR)) return false;
            axes[axis].low = std::min(axes[axis].low, at), axes[axis].high = std::max(axes[axis].high, at);
            double x = (row[0] - at * m[6]) / w, y = (row[1] - at * m[7]) / w;
            axes[axis].span[i] = std::sqrt(x * x + y * y);
        }
    }
    return true;
}

// Whole pixels within a photo of this extent that reads from `low` to `high` come to.
void bordered(double& low, double& high, double extent, bool mirrored) {
    low = std::floor(low), high = std::ceil(high);
    if (mirrored) {
        bool both = (low < 0 && high > extent) || low < -extent || high > 2 * extent;
        double from = both ? 0 : std::min(low, 2 * extent - high), to = both ? extent : std::max(high, -low);
        low = from, high = to;
    }
    low = std::min(std::max(low, 0.0), extent - 1);
    high = std::max(std::min(high, extent), low + 1);
}

void look(const Look& call, int i) {
    constexpr double REACH[] = {0.5, 1.0, 2.0};  // of each filter's kernel, in footprints
    const int32_t* size = call.size_B2 + 2 * i;
    int32_t* region_5 = call.region_B5 + 5 * i;
    region_5[0] = region_5[1] = 0, region_5[2] = size[1], region_5[3] = size[0], region_5[4] = 1;
    Seen axes[2];
    if (!see(call.matrix_B33 + 9 * i, call.width, call.height, axes)) return;
    bool widened = call.antialias && call.filter != NEAREST;
    bool mirrored = call.border_B && call.border_B[i] == REFLECT;
    double least = axes[0].span[0];
    for (int axis = 0; axis < 2; ++axis) {
        Seen& seen = axes[axis];
        double reach = REACH[call.filter] * (widened ? std::max(seen.span[CENTRE], 1.0) : 1.0) + 1;
        double low = seen.low - reach, high = seen.high + reach;
        bordered(low, high, size[1 - axis], mirrored);
        region_5[axis] = int32_t(low), region_5[2 + axis] = int32_t(high);
        least = std::min(least, *std::min_element(seen.span, seen.span + POINTS));
    }
    for (int reduction = 2; call.reduce && widened && reduction <= 8; reduction *= 2)
        if (least * (1 + 1e-6) >= reduction) region_5[4] = reduction;
}

void fit(float* matrix_33, const int32_t* frame_5) {
    double reduction = frame_5[4], x = frame_5[2], y = frame_5[3];
    Matrix part = {{1 / reduction, 0, -x / reduction, 0, 1 / reduction, -y / reduction, 0, 0, 1}};
    Matrix whole;
    std::copy_n(matrix_33, 9, whole.of);
    Matrix fitted = part * whole;
    for (int k = 0; k < 9; ++k) matrix_33[k] = float(fitted.of[k]);
}

// --- a batch -------------------------------------------------------------------------------------------------------

void draw(const Call& call) {
    const Program& program = *call.program;
    int64_t steps = program.policy.slots + program.part_count + program.tone_count;
    int64_t extras = program.policy.slots + program.most, rects = 0;
    for (int i = 0; i < program.rect_count; ++i) rects += program.rects[i].count;
    for (int64_t i = 0; i < call.batch; ++i) {
        Numbers draw{mixed(uint64_t(call.key_B[i]) + uint64_t(call.epoch_address)), program.columns};
        if (call.matrix_B33) draw_geometry(call, draw, i);
        if (call.color_op_BK) draw_colors(program, draw, call.color_op_BK + i * steps, call.color_arg_BK + i * steps);
        if (call.rect_BR4) draw_rects(call, draw, i * rects);
        if (call.noise_seed_B) call.noise_seed_B[i] = int64_t(mixed(draw.state + uint64_t(program.rect_noise)));
        if (call.extra_op_BE) {
            draw_extras(program, draw, call.extra_op_BE + i * extras, call.extra_arg_BE + i * extras);
            call.extra_seed_B[i] = int64_t(mixed(draw.state + uint64_t(program.extra_noise)));
        }
    }
    if (call.mixing) draw_mix(call);
}

}  // namespace
}  // namespace draws

extern "C" {

// Of the structs that both sides know.
void engine_draws_sizes(int64_t* size_9) {
    using namespace draws;
    const int64_t sizes[] = {sizeof(Part),   sizeof(Tone),    sizeof(Extra),  sizeof(Rects),
                             sizeof(Table), sizeof(Program), sizeof(Mixing), sizeof(Call),
                             sizeof(Look)};
    std::copy_n(sizes, 9, size_9);
}

int engine_draws_version() { return 1; }

// 0, or 1 where there is no memory.
int engine_draws_draw(const draws::Call* call) {
    try {
        draws::draw(*call);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Own and partner's labels and the share of the first, of a plan that there is.
void engine_draws_mix_labels(const draws::Call* call) { draws::mix_labels(*call); }

void engine_draws_regions(const draws::Look* call) {
    for (int i = 0; i < call->batch; ++i) draws::look(*call, i);
}

// Matrices for whole photos become those for the parts of them that were decoded: of frame_B5 (height, width, x, y,
// reduction) the last three.
void engine_draws_fit(float* matrix_B33, const int32_t* frame_B5, int batch) {
    for (int i = 0; i < batch; ++i) draws::fit(matrix_B33 + 9 * i, frame_B5 + 5 * i);
}
}
