// The one pass over a row, in the vectors of whichever level includes this file (no include guard: cpu_pass.cpp
// includes it once a level, inside a namespace, after the level's vectors F, I, M of N lanes).
//
// Three readers and why. Rotated samples are read pixel by pixel: one unaligned load brings a row's taps of one pixel
// in all three channels, which beats gathers (a gather fetches one number a lane). Their weights are fixed point, 13
// bits, so that byte dot products do the multiplying; the error stays under 2e-4 of the colour range. Samples whose
// rows and columns stay rows and columns are two one-dimensional filters in float, vertical first: that pass runs over
// contiguous memory and leaves only one row to resample horizontally. Pixels whose taps cross the border, or whose
// loads would pass the image's last byte, have their taps copied to a patch first and then take the same road.

// --- geometry --------------------------------------------------------------------------------------------------------

// Output points of one row to source points. `Checked` also says which points have a source; without it all have.
template <bool Checked>
struct Locator {
    F ux, uy, u1, vx, vy, v1, wx, wy, w1, step;

    Locator(const Sample& s, float y, float x_step) {
        const float* m = s.matrix;
        ux = set1(m[0]), uy = set1(m[1] * y), u1 = set1(m[2]);
        vx = set1(m[3]), vy = set1(m[4] * y), v1 = set1(m[5]);
        wx = set1(m[6]), wy = set1(m[7] * y), w1 = set1(m[8]);
        step = set1(x_step);
    }

    // The products and sums of reference._Source.at in its order, so that both round alike.
    inline M operator()(int i, F& u, F& v) const {
        F x = (set1(float(i) + 0.5f) + iota()) * step;
        u = ux * x + uy + u1;
        v = vx * x + vy + v1;
        if constexpr (Checked) {
            F w = wx * x + wy + w1;
            u = u / w;
            v = v / w;
            M near_u = le(abs(u), set1(MAX_COORDINATE)), near_v = le(abs(v), set1(MAX_COORDINATE));
            M has_source = both(lt(set1(0), w), both(near_u, near_v));
            u = select(has_source, u, set1(0));
            v = select(has_source, v, set1(0));
            return has_source;
        }
        return eq(step, step);
    }
};

static inline int mirror(int p, int n) {
    int m = p % (2 * n);
    if (m < 0) m += 2 * n;
    return m < n ? m : 2 * n - 1 - m;
}

// Where tap p of an axis of n pixels is read, or -1 for the border colour.
static inline int tap_position(int p, int n, int border) {
    if (unsigned(p) < unsigned(n)) return p;
    if (border == CONSTANT) return -1;
    if (border == EDGE) return p < 0 ? 0 : n - 1;
    return mirror(p, n);
}

static inline F triangle(F t) { return max(set1(1) - t, set1(0)); }

static inline F keys_cubic(F t) {  // a = -0.5; t >= 0
    F near = fma(fma(set1(1.5f), t, set1(-2.5f)), t * t, set1(1));
    F far = fma(fma(fma(set1(-0.5f), t, set1(2.5f)), t, set1(-4)), t, set1(2));
    return select(lt(t, set1(1)), near, select(lt(t, set1(2)), far, set1(0)));
}

// --- reading: any matrix -----------------------------------------------------------------------------------------------

// The taps of N pixels, ny rows of nx columns each, brought inside by the border's rule; zeros for the border colour.
static __attribute__((noinline)) void fill_patches(
    const Sample& s, const int32_t* column_N, const int32_t* row_N, unsigned has_source, uint8_t* patch, int stride
) {
    for (int i = 0; i < N; i++, patch += s.ny * stride) {
        const int p = column_N[i], q = row_N[i];
        const bool run = p >= 0 && p + s.nx <= s.width;  // the columns lie side by side
        for (int j = 0; j < s.ny; j++) {
            uint8_t* to = patch + j * stride;
            const int row = has_source >> i & 1 ? tap_position(q + j, s.height, s.border) : -1;
            if (row < 0) {
                std::memset(to, 0, 3 * s.nx);
                continue;
            }
            const uint8_t* from = s.pixels + row * s.stride;
            if (run) {
                std::memcpy(to, from + 3 * p, 3 * s.nx);
                continue;
            }
            for (int k = 0; k < s.nx; k++, to += 3) {
                const int column = tap_position(p + k, s.width, s.border);
                if (column < 0) {
                    to[0] = to[1] = to[2] = 0;
                } else {
                    const uint8_t* pixel = from + 3 * column;
                    to[0] = pixel[0], to[1] = pixel[1], to[2] = pixel[2];
                }
            }
        }
    }
}

static inline void fill_color(const Sample& s, F out[3]) {
    for (int k = 0; k < 3; k++) out[k] = set1(s.color[k]);
}

static inline void add_color(const Sample& s, F inside, F out[3]) {
    for (int k = 0; k < 3; k++) out[k] = fma(set1(1) - inside, set1(s.color[k]), out[k]);
}

// A tilted row crosses many rows of the source, which no processor foresees: ask for the taps of a later row now.
static inline void prefetch(const Sample& s, const int32_t* offset, int rows) {
    for (int i = 0; i < N; i += 4)
        for (int j = 0; j < rows; j++) __builtin_prefetch(s.pixels + offset[i] + s.ahead + j * s.stride);
}

// Which pixels can be read straight from the image: all taps inside, and no load past the last byte.
static inline M readable(const Sample& s, I p, I q, I at, int last_offset) {
    return both(both(below(p, s.width - s.nx + 1), below(q, s.height - s.ny + 1)), at_most(at, last_offset));
}

// Which pixels have a tap inside.
static inline M touches(const Sample& s, I p, I q) {
    return both(below(p + (s.nx - 1), s.width + s.nx - 1), below(q + (s.ny - 1), s.height + s.ny - 1));
}

// The last place in the image that `columns` of the last of ny rows can be loaded from in whole words.
static inline int last_offset(const Sample& s, int ny, int bytes) {
    const int64_t last = s.bytes - (ny - 1) * s.stride - bytes;
    return int(last < -1 ? -1 : last);
}

// Footprint 1: a pixel is 2 x 2 taps (NEAREST: the first of them), one byte dot product a channel.
template <bool Checked>
static void read_row_2x2(const Sample& s, float y, float x_step, int count, float* rgb, int pitch) {
    constexpr float ONE = 127 * 64;  // the largest sum of weights that bytes hold
    constexpr int PATCH_STRIDE = 16;
    const Locator<Checked> locate(s, y, x_step);
    const bool nearest = s.filter == NEAREST;
    const F half = set1(nearest ? 0.0f : 0.5f), blend = set1(nearest ? 0.0f : ONE);
    const int last = last_offset(s, 2, 8);
    alignas(64) int32_t offset[N];
    for (int i = 0; i < count; i += N) {
        F u, v, out[3];
        M has_source = locate(i, u, v);
        u = u - half, v = v - half;
        F column = floor(u), row = floor(v);
        F ax = u - column, ay = v - row;
        I p = to_int(column), q = to_int(row);
        I at = q * int(s.stride) + p * 3;
        F ax_one = ax * blend;
        I wx = round_int(ax_one), wy = round_int(ay * blend), wxy = round_int(ax_one * ay);
        if (nearest) wxy = set1i(0);  // blend is 0, and infinity times 0 is not
        I high, low;
        pack_weights(int(ONE) - wx - wy + wxy, wx - wxy, wy - wxy, wxy, high, low);
        if (__builtin_expect(all(both(has_source, readable(s, p, q, at, last))), 1)) {
            storei(offset, at);
            prefetch(s, offset, 1);
            read_2x2(s.pixels, offset, s.stride, high, low, out);
            for (int k = 0; k < 3; k++) store(rgb + k * pitch + i, out[k] * set1(1 / (255 * ONE)));
            continue;
        }
        M touched = touches(s, p, q);
        if (s.border == CONSTANT && !any(both(touched, has_source))) {
            fill_color(s, out);
        } else {
            alignas(64) uint8_t patch[N * 2 * PATCH_STRIDE];
            alignas(64) int32_t columns[N], rows[N];
            storei(columns, p), storei(rows, q);
            fill_patches(s, columns, rows, mask_bits(has_source), patch, s.ny == 2 ? PATCH_STRIDE : 2 * PATCH_STRIDE);
            for (int l = 0; l < N; l++) offset[l] = l * 2 * PATCH_STRIDE;
            read_2x2(patch, offset, PATCH_STRIDE, high, low, out);
            F covered = select(has_source, set1(1), set1(0));
            if (s.border == CONSTANT && !nearest) {
                const F zero = set1(0), one = set1(1);
                F cx = select(below(p, s.width), one - ax, zero) + select(below(p + 1, s.width), ax, zero);
                F cy = select(below(q, s.height), one - ay, zero) + select(below(q + 1, s.height), ay, zero);
                covered = covered * cx * cy;
            } else if (s.border == CONSTANT) {
                covered = select(touched, covered, set1(0));
            }
            for (int k = 0; k < 3; k++) out[k] = out[k] * set1(1 / (255 * ONE));
            add_color(s, covered, out);
        }
        for (int k = 0; k < 3; k++) store(rgb + k * pitch + i, out[k]);
    }
}

// The kernel's values at `taps` positions, the first of them `first_minus_u` + 0.5 from the point, and their sum.
template <bool Cubic>
static inline F tap_weights(F first_minus_u, float footprint, int taps, F* weight) {
    const F per = set1(1 / footprint);
    const F start = first_minus_u + set1(0.5f);
    F sum = set1(0);
    for (int k = 0; k < taps; k++) {
        F t = abs(start + set1(float(k))) * per;
        weight[k] = Cubic ? keys_cubic(t) : triangle(t);
        sum = sum + weight[k];
    }
    return sum;
}

// One pixel the plain way, its taps mapped one by one: for footprints too large for patches. Weights N apart.
static __attribute__((noinline)) void read_border_pixel(
    const Sample& s, int p, int q, const float* wx, const float* wy, float scale, float out[3]
) {
    float sum[3] = {0, 0, 0}, inside_x = 0, inside = 0;
    for (int k = 0; k < s.nx; k++)
        if (tap_position(p + k, s.width, s.border) >= 0) inside_x += wx[k * N];
    for (int j = 0; j < s.ny; j++) {
        int row = tap_position(q + j, s.height, s.border);
        if (row < 0) continue;
        const uint8_t* from = s.pixels + row * s.stride;
        float line[3] = {0, 0, 0};
        for (int k = 0; k < s.nx; k++) {
            int column = tap_position(p + k, s.width, s.border);
            if (column < 0) continue;
            for (int c = 0; c < 3; c++) line[c] += wx[k * N] * float(from[3 * column + c]);
        }
        for (int c = 0; c < 3; c++) sum[c] += wy[j * N] * line[c];
        inside += wy[j * N] * inside_x;
    }
    for (int c = 0; c < 3; c++) out[c] = sum[c] * (scale / 255) + (1 - inside * scale) * s.color[c];
}

// Any footprint: taps in blocks of four columns and four rows. `Chunks` blocks of columns when known, else 0.
template <bool Checked, bool Cubic, int Chunks>
static void read_row_taps(const Sample& s, float y, float x_step, int count, Scratch& scratch, float* rgb, int pitch) {
    // AVX2 adds the products of taps 0 and 2, and of 1 and 3, in 16 bits: their weights stay under 2**13 together.
    // At footprints up to 2 two such triangle weights sum to at most 1, at footprint 1 two cubic ones to at most 1.2.
    const bool wide = Cubic ? s.fx > 1 : s.fx > 2;
    const F one = set1(wide ? 63 * 64 : Cubic ? 100 * 64 : 127 * 64);
    constexpr int PATCH_BYTES = 1024;  // the largest patch of one pixel
    const int chunks = Chunks ? Chunks : (s.nx + 3) / 4, rows = (s.ny + 3) / 4 * 4;
    const Locator<Checked> locate(s, y, x_step);
    const F reach_x = set1(0.5f + s.fx * (Cubic ? 2 : 1)), reach_y = set1(0.5f + s.fy * (Cubic ? 2 : 1));
    const int last = last_offset(s, s.ny, 12 * chunks + 4);
    const int patch_stride = (12 * chunks + 4 + 15) / 16 * 16, patch_bytes = patch_stride * s.ny;

    // Weights and patches: on the stack where the compiler can keep them in registers, else in scratch memory.
    F few_x[4], few_y[4];
    I few_words[2];
    F *wx = few_x, *wy = few_y;
    I* high = few_words;
    if (!Chunks || rows > 4) {
        wx = scratch.taps.get<F>(size_t(4 * chunks + rows + 2 * chunks));
        wy = wx + 4 * chunks;
        high = reinterpret_cast<I*>(wy + rows);
    }
    I* low = high + chunks;
    int32_t *highs = reinterpret_cast<int32_t*>(high), *lows = reinterpret_cast<int32_t*>(low);
    alignas(64) int32_t offset[N];

    for (int i = 0; i < count; i += N) {
        F u, v, out[3];
        M has_source = locate(i, u, v);
        F column = floor(u - reach_x) + set1(1), row = floor(v - reach_y) + set1(1);
        tap_weights<Cubic>(column - u, s.fx, 4 * chunks, wx);
        F sum_y = tap_weights<Cubic>(row - v, s.fy, rows, wy);
        I total = set1i(0);
        for (int c = 0; c < chunks; c++) {
            I w[4];
            for (int k = 0; k < 4; k++) w[k] = round_int(wx[4 * c + k] * one);
            total += (w[0] + w[1]) + (w[2] + w[3]);
            pack_weights(w[0], w[2], w[1], w[3], high[c], low[c]);
        }
        F scale = set1(1) / (to_float(total) * sum_y * set1(255));
        I p = to_int(column), q = to_int(row);
        I at = q * int(s.stride) + p * 3;
        if (__builtin_expect(all(both(has_source, readable(s, p, q, at, last))), 1)) {
            storei(offset, at);
            prefetch(s, offset, s.prefetch_rows);
            read_taps<Chunks>(s.pixels, offset, s.stride, highs, lows, wy, chunks, s.ny, out);
            for (int k = 0; k < 3; k++) out[k] = out[k] * scale;
        } else if (s.border == CONSTANT && !any(both(has_source, touches(s, p, q)))) {
            fill_color(s, out);
        } else {
            alignas(64) int32_t columns[N], tops[N];
            storei(columns, p), storei(tops, q);
            F sum_x = set1(0), cx = set1(0), cy = set1(0);
            for (int k = 0; k < 4 * chunks; k++) {
                sum_x = sum_x + wx[k];
                cx = cx + select(below(p + k, s.width), wx[k], set1(0));
            }
            for (int k = 0; k < rows; k++) cy = cy + select(below(q + k, s.height), wy[k], set1(0));
            if (patch_bytes <= PATCH_BYTES) {
                alignas(64) uint8_t patch[N * PATCH_BYTES];
                fill_patches(s, columns, tops, mask_bits(has_source), patch, patch_stride);
                for (int l = 0; l < N; l++) offset[l] = l * patch_bytes;
                read_taps<Chunks>(patch, offset, patch_stride, highs, lows, wy, chunks, s.ny, out);
                F covered = select(has_source, set1(1), set1(0));
                if (s.border == CONSTANT) covered = covered * (cx / sum_x) * (cy / sum_y);
                for (int k = 0; k < 3; k++) out[k] = out[k] * scale;
                add_color(s, covered, out);
            } else {
                float scales[N];
                store(scales, set1(1) / (sum_x * sum_y));
                for (int l = 0; l < N; l++) {
                    float pixel[3] = {s.color[0], s.color[1], s.color[2]};
                    if (mask_bits(has_source) >> l & 1) {
                        read_border_pixel(
                            s, columns[l], tops[l], reinterpret_cast<const float*>(wx) + l,
                            reinterpret_cast<const float*>(wy) + l, scales[l], pixel
                        );
                    }
                    for (int k = 0; k < 3; k++) rgb[k * pitch + i + l] = pixel[k];
                }
                for (int k = 0; k < 3; k++) out[k] = load(rgb + k * pitch + i);
            }
        }
        for (int k = 0; k < 3; k++) {
            if (Cubic) out[k] = min(max(out[k], set1(0)), set1(1));
            store(rgb + k * pitch + i, out[k]);
        }
    }
}

// --- reading: rows stay rows and columns stay columns ------------------------------------------------------------------

// The columns' taps and weights, once a sample. `first_W` and `weight_TW` have padded(width) entries a row.
static void prepare_columns(Sample& s, int width) {
    const int pad = padded(width);
    const float sides = s.filter == BICUBIC ? 2 : 1;
    int low = 1 << 30, high = -(1 << 30);
    for (int x = 0; x < pad; x++) {
        float u = (s.matrix[0] * (float(x < width ? x : width - 1) + 0.5f) + s.matrix[2]);
        F at = floor(set1(u - 0.5f - sides * s.fx));
        int first = int(at[0]) + 1;
        float weight[4 * int(MAX_FOOTPRINT) + 16];
        float sum = tap_weights(s.filter, float(first) - u, s.fx, s.nx, weight);
        for (int k = 0; k < s.nx; k++) s.weight_TW[k * pad + x] = weight[k] / sum;
        if (s.border != REFLECT) first = first < -s.nx ? -s.nx : first > s.width ? s.width : first;
        s.first_W[x] = first;
        low = first < low ? first : low;
        high = first > high ? first : high;
    }
    s.column_low = low;
    s.column_count = high + s.nx - low;
    for (int x = 0; x < pad; x++) s.first_W[x] -= low;
}

static void read_row_aligned(const Sample& s, float y, int count, Scratch& scratch, float* rgb, int pitch) {
    const float sides = s.filter == BICUBIC ? 2 : 1;
    const float v = s.matrix[4] * y + s.matrix[5];
    F bottom = floor(set1(v - 0.5f - sides * s.fy));
    const int q = int(bottom[0]) + 1;

    // The rows to blend and their weights; what CONSTANT leaves out goes to its colour.
    const int pad_y = (s.ny + 15) & ~15;
    float* wy = scratch.taps.get<float>(2 * pad_y + pad_y * sizeof(uint8_t*) / sizeof(float));
    float* row_weight = wy + pad_y;
    const uint8_t** row = reinterpret_cast<const uint8_t**>(row_weight + pad_y);
    const float scale = 1 / tap_weights(s.filter, float(q) - v, s.fy, s.ny, wy);
    int rows = 0;
    float inside = 0;
    for (int j = 0; j < s.ny; j++) {
        int at = tap_position(q + j, s.height, s.border);
        if (at < 0 || wy[j] == 0) continue;
        row[rows] = s.pixels + at * s.stride;
        row_weight[rows++] = wy[j] * scale / 255;
        inside += wy[j] * scale;
    }

    // Columns [from, to) of the source, blended vertically, split to planes at their place from column_low on.
    int from = s.column_low, to = s.column_low + s.column_count;
    if (s.border == CONSTANT) {
        from = from < 0 ? 0 : from, to = to > s.width ? s.width : to;
    } else if (s.border == EDGE) {
        from = from < 0 ? 0 : from >= s.width ? s.width - 1 : from;
        to = to > s.width ? s.width : to < 1 ? 1 : to;
    } else if (from < 0 || to > s.width) {
        from = 0, to = s.width;
    }
    // Reflections may need columns outside the range read by the taps: the planes span both.
    const int origin = from < s.column_low ? from : s.column_low;
    const int end = to > s.column_low + s.column_count ? to : s.column_low + s.column_count;
    const int plane_pitch = (end - origin + 3 * 16 + 63) & ~15;
    float* plane = scratch.columns.get<float>(3 * size_t(plane_pitch));
    F rest[3];
    for (int k = 0; k < 3; k++) rest[k] = set1((s.border == CONSTANT ? 1 - inside : 0) * s.color[k]);
    const uint8_t* image_end = s.pixels + s.bytes;
    for (int c = from; c < to; c += N) {
        F sum[3] = {set1(0), set1(0), set1(0)}, split[3];
        for (int j = 0; j < rows; j++) {
            const uint8_t* p = row[j] + 3 * c;
            uint8_t tail[3 * N];
            if (__builtin_expect(image_end - p < 3 * N, 0)) {
                std::memcpy(tail, p, image_end - p);
                p = tail;
            }
            F weight = set1(row_weight[j]);
            for (int k = 0; k < 3; k++) sum[k] = fma(load_bytes(p + k * N), weight, sum[k]);
        }
        split3(sum, split);
        for (int k = 0; k < 3; k++) store(plane + k * plane_pitch + c - origin, split[k] + rest[k]);
    }
    for (int k = 0; k < 3; k++) {  // the columns outside
        float* columns = plane + k * plane_pitch;
        for (int c = s.column_low; c < s.column_low + s.column_count; c++) {
            if (unsigned(c) < unsigned(s.width)) {
                c = to - 1;  // the loop steps past what was read
                continue;
            }
            int at = tap_position(c, s.width, s.border);
            columns[c - origin] = at < 0 ? s.color[k] : columns[at - origin];
        }
    }

    const float* start = plane + (s.column_low - origin);
    const int pad = padded(count);
    for (int i = 0; i < count; i += N) {
        const int32_t a = s.first_W[i], b = s.first_W[i + N - 1];
        const int base = a < b ? a : b, span = (a < b ? b - a : a - b) + s.nx;
        I first = loadi(s.first_W + i);
        F sum[3] = {set1(0), set1(0), set1(0)};
        for (int t = 0; t < s.nx; t++) {
            F weight = load(s.weight_TW + t * pad + i);
            for (int k = 0; k < 3; k++) sum[k] = fma(pick(start + k * plane_pitch, first + t, base, span), weight, sum[k]);
        }
        for (int k = 0; k < 3; k++) {
            if (s.filter == BICUBIC) sum[k] = min(max(sum[k], set1(0)), set1(1));
            store(rgb + k * pitch + i, sum[k]);
        }
    }
}

// Read `count` output points of one row at height `y` (output pixels), `x_step` output pixels apart, into three
// planes of floats in [0, 1], `pitch` apart. Writes up to the next multiple of 16.
static void read_row(const Sample& s, float y, float x_step, int count, Scratch& scratch, float* rgb, int pitch) {
    if (s.reader == READ_ALIGNED) return read_row_aligned(s, y, count, scratch, rgb, pitch);
    if (s.reader == READ_2X2) {
        return (s.checked ? read_row_2x2<true> : read_row_2x2<false>)(s, y, x_step, count, rgb, pitch);
    }
    const bool few = s.nx <= 4 && s.ny <= 4;
    auto read = s.filter == BICUBIC
        ? (s.checked ? (few ? read_row_taps<true, true, 1> : read_row_taps<true, true, 0>)
                     : (few ? read_row_taps<false, true, 1> : read_row_taps<false, true, 0>))
        : (s.checked ? (few ? read_row_taps<true, false, 1> : read_row_taps<true, false, 0>)
                     : (few ? read_row_taps<false, false, 1> : read_row_taps<false, false, 0>));
    read(s, y, x_step, count, scratch, rgb, pitch);
}

// --- colour ------------------------------------------------------------------------------------------------------------

static inline F unit(F x) { return min(max(x, set1(0)), set1(1)); }

static inline F luma(F r, F g, F b) {
    return fma(b, set1(LUMA[2]), fma(g, set1(LUMA[1]), r * set1(LUMA[0])));
}

// log2 and 2**x by their series, about 1e-7 off.
static inline F log2_of(F x) {
    I b = bits(x);
    I shifted = b - 0x3f3504f3;  // mantissas from sqrt(1/2) to sqrt(2)
    F exponent = to_float(shifted >> 23);
    F m = from_bits((shifted & 0x007fffff) + 0x3f3504f3);
    F s = (m - set1(1)) / (m + set1(1)), s2 = s * s;
    F series = fma(fma(fma(set1(1.0f / 7), s2, set1(1.0f / 5)), s2, set1(1.0f / 3)), s2, set1(1));
    return fma(s * series, set1(2.885390082f), exponent);
}

static inline F exp2_of(F x) {  // x <= 0
    x = max(x, set1(-126));
    F whole = floor(x), t = (x - whole) * set1(0.6931471806f);
    F series = fma(t, set1(1.0f / 5040), set1(1.0f / 720));
    series = fma(series, t, set1(1.0f / 120));
    series = fma(series, t, set1(1.0f / 24));
    series = fma(series, t, set1(1.0f / 6));
    series = fma(series, t, set1(0.5f));
    series = fma(series, t, set1(1));
    series = fma(series, t, set1(1));
    return from_bits(bits(series) + (to_int(whole) << 23));
}

// HUE with every term scaled by the chroma, so that nothing is divided: with h = 6 hue * chroma in [0, 6 chroma),
// red is low + clamp(|h - 3 c| - c, 0, c), green low + clamp(2 c - |h - 2 c|, 0, c), blue the same about 4 c. This is
// the reference's V - C clamp(min(k, 4 - k), 0, 1).
static inline void turn_hue(F& r, F& g, F& b, F six_turns) {
    const F zero = set1(0);
    F high = max(max(r, g), b), low = min(min(r, g), b), c = high - low;
    F c2 = c + c, c4 = c2 + c2, c6 = c4 + c2;
    F h = select(eq(r, high), g - b, select(eq(g, high), c2 + (b - r), c4 + (r - g)));
    h = fma(six_turns, c, h);  // in [-c, 11 c]
    h = h + select(lt(h, zero), c6, zero);
    h = h - select(le(c6, h), c6, zero);
    r = low + min(max(abs(h - (c2 + c)) - c, zero), c);
    g = low + min(max(c2 - abs(h - c2), zero), c);
    b = low + min(max(c2 - abs(h - c4), zero), c);
}

template <class Step>
static inline void each(float* rgb, int pitch, int count, Step step) {
    for (int i = 0; i < count; i += N) {
        F r = load(rgb + i), g = load(rgb + pitch + i), b = load(rgb + 2 * pitch + i);
        step(r, g, b);
        store(rgb + i, r), store(rgb + pitch + i, g), store(rgb + 2 * pitch + i, b);
    }
}

static inline int nearest_int(float arg, int largest) {
    return !(arg >= 0) ? 0 : arg >= float(largest) ? largest : int(arg + 0.5f);
}

// One step of the colour program on planes of colours; `mean` is CONTRAST's.
static void color_step(int op, float arg, float mean, float* rgb, int pitch, int count) {
    const F a = set1(arg);
    switch (op) {
        case BRIGHTNESS:
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { r = unit(r * a), g = unit(g * a), b = unit(b * a); });
        case CONTRAST: {
            const F shift = set1(mean * (1 - arg));
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) {
                r = unit(fma(r, a, shift)), g = unit(fma(g, a, shift)), b = unit(fma(b, a, shift));
            });
        }
        case SATURATION: {
            const F rest = set1(1 - arg);
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) {
                F shift = luma(r, g, b) * rest;
                r = unit(fma(r, a, shift)), g = unit(fma(g, a, shift)), b = unit(fma(b, a, shift));
            });
        }
        case HUE: {
            float turns = arg - float(int(arg));
            const F six_turns = set1(6 * (turns < 0 ? turns + 1 : turns));
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { turn_hue(r, g, b, six_turns); });
        }
        case GRAY:
            if (!(arg > 0)) return;
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { r = g = b = luma(r, g, b); });
        case SHUFFLE: {
            static const int permutations[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
            const int* order = permutations[nearest_int(arg, 5)];
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) {
                const F from[3] = {r, g, b};
                r = from[order[0]], g = from[order[1]], b = from[order[2]];
            });
        }
        case INVERT:
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) {
                r = set1(1) - r, g = set1(1) - g, b = set1(1) - b;
            });
        case SOLARIZE: {
            auto solar = [&](F x) { return select(le(a, x), set1(1) - x, x); };
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { r = solar(r), g = solar(g), b = solar(b); });
        }
        case POSTERIZE: {
            const float step = float(1 << (8 - nearest_int(arg, 8)));
            const F per_step = set1(1 / step), back = set1(step / 255);
            auto post = [&](F x) { return floor(floor(x * set1(255) + set1(0.5f)) * per_step) * back; };
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { r = post(r), g = post(g), b = post(b); });
        }
        case GAMMA: {
            const F at_zero = set1(arg > 0 ? 0.0f : 1.0f);  // 0 ** 0 = 1, and infinity clamps to 1
            auto power = [&](F x) {
                F y = exp2_of(min(log2_of(x) * a, set1(0)));
                return select(le(x, set1(0)), at_zero, y);
            };
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) { r = power(r), g = power(g), b = power(b); });
        }
        default:
            return;
    }
}

static float mean_luma(const float* rgb, int pitch, int count) {
    F sum = set1(0);
    for (int i = 0; i < count; i += N) sum = sum + luma(load(rgb + i), load(rgb + pitch + i), load(rgb + 2 * pitch + i));
    float lanes[N], total = 0;
    store(lanes, sum);
    for (int i = 0; i < N; i++) total += lanes[i];
    return total / float(count);
}

// --- out ---------------------------------------------------------------------------------------------------------------

// a = weight a + (1 - weight) b on three planes.
static void blend_rows(float* a, const float* b, float weight, int pitch, int count) {
    const F own = set1(weight), other = set1(1 - weight);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < count; i += N)
            store(a + k * pitch + i, fma(load(a + k * pitch + i), own, load(b + k * pitch + i) * other));
}

template <int Type, bool Stream, class T>
static inline void put(T* to, F x) {
    if constexpr (Type == FLOAT32) {
        Stream ? stream(to, x) : store(to, x);
    } else if constexpr (Type == BFLOAT16) {
        store_bf16(to, x);
    } else {
        store_fp16(to, x);
    }
}

template <int Type, bool Stream, class T>
static void write_row(const float* rgb, int pitch, int count, const float* scale, const float* shift, T* to) {
    const F s0 = set1(scale[0]), s1 = set1(scale[1]), s2 = set1(scale[2]);
    const F m0 = set1(shift[0]), m1 = set1(shift[1]), m2 = set1(shift[2]);
    F out[3];
    int i = 0;
    for (; i + N <= count; i += N, to += 3 * N) {
        join3(fma(load(rgb + i), s0, m0), fma(load(rgb + pitch + i), s1, m1), fma(load(rgb + 2 * pitch + i), s2, m2), out);
        for (int k = 0; k < 3; k++) put<Type, Stream>(to + k * N, out[k]);
    }
    if (i < count) {
        alignas(64) T rest[3 * N];
        join3(fma(load(rgb + i), s0, m0), fma(load(rgb + pitch + i), s1, m1), fma(load(rgb + 2 * pitch + i), s2, m2), out);
        for (int k = 0; k < 3; k++) put<Type, false>(rest + k * N, out[k]);
        std::memcpy(to, rest, 3 * (count - i) * sizeof(T));
    }
}

// Normalise (value * scale + shift), interleave, cast and write one row to `to`; `streaming` goes around the caches.
static void finish_row(
    const float* rgb, int pitch, int count, const float* scale, const float* shift, int dtype, bool streaming, void* to
) {
    if (dtype == BFLOAT16) {
        write_row<BFLOAT16, false>(rgb, pitch, count, scale, shift, static_cast<uint16_t*>(to));
    } else if (dtype == FLOAT16) {
        write_row<FLOAT16, false>(rgb, pitch, count, scale, shift, static_cast<uint16_t*>(to));
    } else if (streaming && reinterpret_cast<uintptr_t>(to) % sizeof(F) == 0) {
        write_row<FLOAT32, true>(rgb, pitch, count, scale, shift, static_cast<float*>(to));
    } else {
        write_row<FLOAT32, false>(rgb, pitch, count, scale, shift, static_cast<float*>(to));
    }
}

static void finish_writing() { fence(); }

constexpr Level level = {read_row, prepare_columns, color_step, mean_luma, blend_rows, finish_row, finish_writing};
