// What draws.cpp is told and what it fills in. draws.py mirrors each struct field by field.
#pragma once

#include <cstdint>

namespace draws {

// A part of the colour jitter. `at` is the column of its number, `order` that of its place among the parts.
struct Part {
    int32_t op, at, order;
    float low, span;
};

// How a tone's argument comes of a number u: `low`; low + span * u; low + floor(u * span).
enum Form : int32_t { GIVEN, BETWEEN, WHOLE };

// A step of the colour program with a chance of its own: column `at` says whether, the next how much.
struct Tone {
    int32_t op, at, form;
    float chance, low, span;
};

// An operation that is no rule for a pixel: columns from `at` say whether, when, how strongly.
struct Extra {
    int32_t op, at;
    float chance, low, span;
};

enum Shape : int32_t { ERASE, RANDOM_ERASING, CUTOUT, CORNER };

// A kind of rectangles, `count` of them a sample. `low` and `span` are of sides or, of random erasing, of areas.
struct Rects {
    int32_t shape, at, count, fill;
    int32_t fewest, spread;  // erase: their number is fewest + floor(u * spread)
    float chance, low, span;
    float log_ratio, log_ratio_span;  // random erasing
    float color[3];
    double side;  // cutout: of the shorter side
};

enum Crop : int32_t { RANDOM_RESIZED, CENTER, LETTERBOX, STRETCH };
enum Kind : int32_t { NO_POLICY, AUTOAUGMENT, RANDAUGMENT, TRIVIALAUGMENT };

// A published policy: O operations of M strengths; AutoAugment's P rows of S slots.
struct Table {
    const int32_t* codes_O3;  // geometry, colour, extra
    const float* args_OM;
    const uint8_t* signed_O;
    const int32_t* op_PS;
    const float* chance_PS;
    const int32_t* bin_PS;
    int32_t kind, slots, operations, bins, rows, magnitude;
    int32_t at_operation, at_strength, at_sign, at_chance;
};

// A recipe's augment section. A column is an address among the uniform numbers of a sample; one below 0 is not drawn.
struct Program {
    const int64_t* columns;
    const Part* parts;
    const Tone* tones;
    const Extra* extras;
    const Rects* rects;
    Table policy;
    int64_t rect_noise, extra_noise;  // addresses of seeds
    double scale, scale_span, log_ratio, log_ratio_span, ratio_low, ratio_high;  // of a random crop
    double affine_shift, affine_scale, affine_rotate, affine_shear, distortion;
    int32_t at_letterbox, at_crop, at_half, at_flip, at_vertical_flip, at_quarter_turn, at_affine, at_perspective;
    int32_t at_color;
    float letterbox_p, half_p, flip_p, vertical_flip_p, quarter_turn_p, affine_p, perspective_p, color_p;
    float mean[3];
    int32_t crop, border, part_count, tone_count, extra_count, most, rect_count;
};

// How a batch is mixed. Tables are of beta quantiles: x ** alpha at p = 0, ..., 1/2 in `intervals` equal steps.
struct Mixing {
    const double* mixup_table;
    const double* cutmix_table;
    int64_t columns[5];  // whether, which kind, weight, place of the box along x and y
    int64_t batch_address, partner_address;
    double mixup_exponent, cutmix_exponent;  // 1 / alpha
    float p, cutmix_share;
    int32_t intervals, per_batch;
};

// A batch. What is null is not made; the colour program, rectangles and extras are as long as the program says.
struct Call {
    const Program* program;
    const Mixing* mixing;
    const int64_t* key_B;
    const int32_t* size_B2;  // height, width of each source
    const int64_t* label_B;
    int64_t epoch_address;  // of (seed, epoch)
    float* matrix_B33;
    int32_t* border_B;
    float* border_color_B3;
    int32_t* color_op_BK;
    float* color_arg_BK;
    int32_t* rect_BR4;
    int32_t* rect_fill_BR;
    float* rect_color_BR3;
    int64_t* noise_seed_B;
    int64_t* partner_B;
    float* weight_B;
    int32_t* box_B4;
    int64_t* own_B;
    int64_t* partner_label_B;
    float* share_B;
    int32_t* extra_op_BE;
    float* extra_arg_BE;
    int64_t* extra_seed_B;
    int32_t batch, height, width;
};

// A plan whose regions are wanted.
struct Look {
    const float* matrix_B33;
    const int32_t* border_B;  // null: none is a mirror
    const int32_t* size_B2;
    int32_t* region_B5;  // x0, y0, x1, y1, reduction
    int32_t batch, height, width;
    int32_t filter, antialias, reduce;
};

}  // namespace draws
