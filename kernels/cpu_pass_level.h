// The one pass over a row, in the vectors of whichever level includes this file (no include guard: cpu_pass.cpp
// includes it once a level, inside a namespace, after the level's vectors F, I, M of N lanes).
//
// Three readers and why. Rotated samples are read pixel by pixel: one unaligned load brings a row's taps of one pixel
// in all three channels, which beats gathers (a gather fetches one number a lane). Their weights are fixed point, 13
// bits for dot products of bytes, 15 where words are multiplied; the error stays under 2e-4 of the colour range.
// Samples whose rows and columns stay rows and columns are two one-dimensional filters in float, vertical first: that
// pass runs over contiguous memory and leaves only one row to resample horizontally. Pixels whose taps cross the
// border, or whose loads would pass the image's last byte, have their taps copied to a patch first and then take the
// same road.

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

static inline F unit(F x) { return min(max(x, set1(0)), set1(1)); }

static inline F triangle(F t) { return max(set1(1) - t, set1(0)); }

static inline F keys_cubic(F t) {  // a = -0.5; t >= 0
    F near = fma(fma(set1(1.5f), t, set1(-2.5f)), t * t, set1(1));
    F far = fma(fma(fma(set1(-0.5f), t, set1(2.5f)), t, set1(-4)), t, set1(2));
    return select(lt(t, set1(1)), near, select(lt(t, set1(2)), far, set1(0)));
}

// --- reading: any matrix ---------------------------------------------------------------------------------------------

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
static inline void prefetch(const uint8_t* pixels_ahead, const int32_t* offset, int64_t stride, int rows) {
    for (int i = 0; i < N; i += 4)
        for (int j = 0; j < rows; j++) __builtin_prefetch(pixels_ahead + offset[i] + j * stride);
}

// Which pixels can be read straight from the image: all taps inside, and no load past the last byte.
struct Readable {
    int columns, rows, last;

    // `bytes` are loaded from the last of the rows.
    Readable(const Sample& s, int ny, int bytes) {
        columns = s.width < s.nx ? 0 : s.width - s.nx + 1;
        rows = s.height < s.ny ? 0 : s.height - s.ny + 1;
        const int64_t end = s.bytes - (ny - 1) * s.stride - bytes;
        last = int(end < 0 ? -1 : end);
    }

    inline M operator()(I p, I q, I offset) const {
        return both(both(below(p, columns), below(q, rows)), at_most(offset, last));
    }
};

// Whether all `count` points of a row from `start` on can be read straight from the image, by the first and the last:
// an affine map goes one way along both axes, in floats, too. `first_tap` gives the first tap's column and row.
template <class FirstTap>
static inline bool all_readable(const Readable& readable, int start, int count, int64_t stride, FirstTap first_tap) {
    I p, q, last_p, last_q;
    first_tap(start, p, q);
    first_tap(start + (count - 1) / N * N, last_p, last_q);
    const int left = p[0] < last_p[N - 1] ? p[0] : last_p[N - 1], right = p[0] + last_p[N - 1] - left;
    const int top = q[0] < last_q[N - 1] ? q[0] : last_q[N - 1], bottom = q[0] + last_q[N - 1] - top;
    return left >= 0 && top >= 0 && right < readable.columns && bottom < readable.rows
        && bottom * stride + 3 * right <= readable.last;
}

// Which pixels have a tap inside.
static inline M touches(const Sample& s, I p, I q) {
    return both(below(p + (s.nx - 1), s.width + s.nx - 1), below(q + (s.ny - 1), s.height + s.ny - 1));
}

// Footprint 1: a pixel is 2 x 2 taps (NEAREST: the first of them), one byte dot product a channel.
template <bool Checked>
static void read_row_2x2(const Sample& s, float y, float x_step, int count, float* rgb, int pitch) {
    constexpr float ONE = 127 * 64;  // the largest sum of weights that bytes hold
    constexpr int PATCH_STRIDE = 16;
    const Locator<Checked> locate(s, y, x_step);
    const bool nearest = s.filter == NEAREST;
    const F half = set1(nearest ? 0.0f : 0.5f), blend = set1(nearest ? 0.0f : ONE);
    const Readable readable(s, 2, 8);
    const int stride = int(s.stride);
    alignas(64) int32_t offset[BLOCK], high[BLOCK], low[BLOCK];

    struct Group {
        M has_source;
        F ax, ay;
        I p, q;
        bool inside;
    };
    auto first_tap = [&](int i, I& p, I& q) {
        F u, v;
        locate(i, u, v);
        p = to_int(floor(u - half)), q = to_int(floor(v - half));
    };
    // The vector of pixels at i; its weights go to `at` of the block.
    auto weigh = [&](int i, int at, bool known_inside) {
        Group g;
        F u, v;
        g.has_source = locate(i, u, v);
        u = u - half, v = v - half;
        const F column = floor(u), row = floor(v);
        g.ax = u - column, g.ay = v - row;
        g.p = to_int(column), g.q = to_int(row);
        const I address = g.q * stride + g.p * 3;
        const F ax_one = g.ax * blend;
        const I wx = round_int(ax_one), wy = round_int(g.ay * blend), wxy = round_int(ax_one * g.ay);
        I upper, lower;
        pack_weights(int(ONE) - wx - wy + wxy, wx - wxy, wy - wxy, wxy, upper, lower);
        storei(offset + at, address), storei(high + at, upper), storei(low + at, lower);
        g.inside = known_inside || all(both(g.has_source, readable(g.p, g.q, address)));
        return g;
    };
    auto read_border = [&](int i, int at, F out[3]) {
        const Group g = weigh(i, at, false);
        const M touched = touches(s, g.p, g.q);
        if (s.border == CONSTANT && !any(both(touched, g.has_source))) return fill_color(s, out);
        alignas(64) uint8_t patch[N * 2 * PATCH_STRIDE];
        alignas(64) int32_t columns[N], rows[N], patches[N];
        storei(columns, g.p), storei(rows, g.q);
        fill_patches(s, columns, rows, mask_bits(g.has_source), patch, s.ny == 2 ? PATCH_STRIDE : 2 * PATCH_STRIDE);
        for (int l = 0; l < N; l++) patches[l] = l * 2 * PATCH_STRIDE;
        read_2x2(patch, patches, PATCH_STRIDE, loadi(high + at), loadi(low + at), out);
        const F zero = set1(0), one = set1(1);
        F covered = select(g.has_source, one, zero);
        if (s.border == CONSTANT && nearest) {
            covered = select(touched, covered, zero);
        } else if (s.border == CONSTANT) {
            F cx = select(below(g.p, s.width), one - g.ax, zero) + select(below(g.p + 1, s.width), g.ax, zero);
            F cy = select(below(g.q, s.height), one - g.ay, zero) + select(below(g.q + 1, s.height), g.ay, zero);
            covered = covered * cx * cy;
        }
        for (int k = 0; k < 3; k++) out[k] = out[k] * set1(1 / (255 * ONE));
        add_color(s, covered, out);
    };

    for (int start = 0; start < count; start += BLOCK) {
        const int end = count - start < BLOCK ? count - start : BLOCK;
        uint32_t inside = 0;
        if (!Checked && all_readable(readable, start, end, s.stride, first_tap)) {
            inside = UINT32_MAX;
            for (int at = 0; at < end; at += N) weigh(start + at, at, true);
        } else {
            for (int at = 0; at < end; at += N) inside |= uint32_t(weigh(start + at, at, false).inside) << (at / N);
        }
        for (int at = 0; at < end; at += N) {
            F out[3];
            if (__builtin_expect(inside >> (at / N) & 1, 1)) {
                prefetch(s.pixels + s.ahead, offset + at, 0, 1);
                read_2x2(s.pixels, offset + at, s.stride, loadi(high + at), loadi(low + at), out);
                for (int k = 0; k < 3; k++) out[k] = out[k] * set1(1 / (255 * ONE));
            } else {
                read_border(start + at, at, out);
            }
            for (int k = 0; k < 3; k++) store(rgb + k * pitch + start + at, out[k]);
        }
    }
}

// `scale` times the kernel's values at `taps` positions, the first of them `first_minus_u` + 0.5 from the point, and
// their sum.
template <bool Cubic>
static inline F tap_weights(F first_minus_u, float per_footprint, float scale, int taps, F* weight) {
    const F start = first_minus_u + set1(0.5f);
    F sum = set1(0);
    for (int k = 0; k < taps; k++) {
        F t = abs(start + set1(float(k))) * set1(per_footprint);
        weight[k] = (Cubic ? keys_cubic(t) : triangle(t)) * set1(scale);
        sum = sum + weight[k];
    }
    return sum;
}

// The same for BILINEAR at footprints up to 2, times `scale`: the signs of most distances are known.
static inline F four_triangle_weights(F first_minus_u, float per_footprint, float scale, F weight[4]) {
    const float per = scale * per_footprint;
    const F d = (first_minus_u + set1(0.5f)) * set1(per);  // in (-scale, 0]
    weight[0] = set1(scale) + d;
    weight[1] = set1(scale) - abs(d + set1(per));
    weight[2] = max(set1(scale - 2 * per) - d, set1(0));
    weight[3] = max(set1(scale - 3 * per) - d, set1(0));
    return (weight[0] + weight[1]) + (weight[2] + weight[3]);
}

// One pixel the plain way, its taps mapped one by one: for footprints too large for patches. Weights
// of columns are N apart, of rows BLOCK.
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
        for (int c = 0; c < 3; c++) sum[c] += wy[j * BLOCK] * line[c];
        inside += wy[j * BLOCK] * inside_x;
    }
    for (int c = 0; c < 3; c++) out[c] = sum[c] * (scale / 255) + (1 - inside * scale) * s.color[c];
}

// Any footprint: taps in chunks of four columns and four rows. `Chunks` of columns when known, else 0.
template <bool Checked, bool Cubic, int Chunks>
static void read_row_taps(const Sample& s, float y, float x_step, int count, Scratch& scratch, float* rgb, int pitch) {
    // In bytes, AVX2 adds the products of taps 0 and 2, and of 1 and 3, in 16 bits: their weights stay under 2**13
    // together. At footprints up to 2 two such triangle weights sum to at most 1, at footprint 1 two cubic ones to at
    // most 1.2.
    const bool wide = Cubic ? s.fx > 1 : s.fx > 2;
    const float one = TAPS_IN_WORDS<Chunks> ? 32767 : wide ? 63 * 64 : Cubic ? 100 * 64 : 127 * 64;
    constexpr int PATCH_BYTES = 1024;  // the largest patch of one pixel
    const int chunks = Chunks ? Chunks : (s.nx + 3) / 4, rows = Chunks ? 4 : (s.ny + 3) / 4 * 4;
    const Locator<Checked> locate(s, y, x_step);
    const F reach_x = set1(0.5f + s.fx * (Cubic ? 2 : 1)), reach_y = set1(0.5f + s.fy * (Cubic ? 2 : 1));
    const float per_fx = 1 / s.fx, per_fy = 1 / s.fy;
    const Readable readable(s, s.ny, 12 * chunks + 4);
    const int stride = int(s.stride);
    const int patch_stride = (12 * chunks + 4 + 15) / 16 * 16, patch_bytes = patch_stride * s.ny;

    // Of a block: addresses, weights of columns packed chunk by chunk, weights of rows, and what to multiply by.
    const size_t of_block = size_t(BLOCK) * (2 + 2 * chunks + rows), of_vector = size_t(N) * (4 * chunks + rows);
    int32_t* offset = scratch.taps.get<int32_t>(of_block + of_vector);
    int32_t *high = offset + BLOCK, *low = high + BLOCK * chunks;
    float* wy = reinterpret_cast<float*>(low + BLOCK * chunks);
    float* scale = wy + BLOCK * rows;
    // Of one vector of pixels, where the compiler need not keep them in registers.
    F few_x[4], few_y[4];
    F* wx = Chunks ? few_x : reinterpret_cast<F*>(scale + BLOCK);
    F* wy_here = Chunks ? few_y : wx + 4 * chunks;

    struct Group {
        M has_source;
        I p, q;
        F sum_y;
        bool inside;
    };
    auto first_tap = [&](int i, I& p, I& q) {
        F u, v;
        locate(i, u, v);
        p = to_int(floor(u - reach_x) + set1(1)), q = to_int(floor(v - reach_y) + set1(1));
    };
    // The vector of pixels at i; its weights go to `at` of the block.
    auto weigh = [&](int i, int at, bool known_inside) {
        Group g;
        F u, v;
        g.has_source = locate(i, u, v);
        const F column = floor(u - reach_x) + set1(1), row = floor(v - reach_y) + set1(1);
        g.p = to_int(column), g.q = to_int(row);
        const I address = g.q * stride + g.p * 3;
        storei(offset + at, address);
        g.inside = known_inside || all(both(g.has_source, readable(g.p, g.q, address)));
        if constexpr (Chunks == 1 && !Cubic) {
            four_triangle_weights(column - u, per_fx, one, wx);
            g.sum_y = four_triangle_weights(row - v, per_fy, 1, wy_here);
        } else {
            tap_weights<Cubic>(column - u, per_fx, one, 4 * chunks, wx);
            g.sum_y = tap_weights<Cubic>(row - v, per_fy, 1, rows, wy_here);
        }
        for (int k = 0; k < rows; k++) store(wy + k * BLOCK + at, wy_here[k]);
        I total = set1i(0);
        for (int c = 0; c < chunks; c++) {
            I w[4], upper, lower;
            for (int k = 0; k < 4; k++) w[k] = round_int(wx[4 * c + k]);
            total += (w[0] + w[1]) + (w[2] + w[3]);
            pack_taps<Chunks>(w, upper, lower);
            storei(high + c * BLOCK + at, upper), storei(low + c * BLOCK + at, lower);
        }
        store(scale + at, reciprocal(to_float(total) * g.sum_y * set1(255)));
        return g;
    };
    auto read_border = [&](int i, int at, F out[3]) {
        const Group g = weigh(i, at, false);
        if (s.border == CONSTANT && !any(both(g.has_source, touches(s, g.p, g.q)))) return fill_color(s, out);
        alignas(64) int32_t columns[N], tops[N];
        storei(columns, g.p), storei(tops, g.q);
        F sum_x = set1(0), cx = set1(0), cy = set1(0);
        for (int k = 0; k < 4 * chunks; k++) {
            sum_x = sum_x + wx[k];
            cx = cx + select(below(g.p + k, s.width), wx[k], set1(0));
        }
        for (int k = 0; k < rows; k++) cy = cy + select(below(g.q + k, s.height), wy_here[k], set1(0));
        if (patch_bytes <= PATCH_BYTES) {
            alignas(64) uint8_t patch[N * PATCH_BYTES];
            alignas(64) int32_t patches[N];
            fill_patches(s, columns, tops, mask_bits(g.has_source), patch, patch_stride);
            for (int l = 0; l < N; l++) patches[l] = l * patch_bytes;
            read_taps<Chunks>(patch, patches, patch_stride, high + at, low + at, wy + at, chunks, s.ny, out);
            F covered = select(g.has_source, set1(1), set1(0));
            if (s.border == CONSTANT) covered = covered * (cx / sum_x) * (cy / g.sum_y);
            for (int k = 0; k < 3; k++) out[k] = out[k] * load(scale + at);
            return add_color(s, covered, out);
        }
        float scales[N], pixels[3][N];
        store(scales, set1(1) / (sum_x * g.sum_y));
        for (int l = 0; l < N; l++) {
            float pixel[3] = {s.color[0], s.color[1], s.color[2]};
            if (mask_bits(g.has_source) >> l & 1) {
                const float* columns_x = reinterpret_cast<const float*>(wx) + l;
                read_border_pixel(s, columns[l], tops[l], columns_x, wy + at + l, scales[l], pixel);
            }
            for (int k = 0; k < 3; k++) pixels[k][l] = pixel[k];
        }
        for (int k = 0; k < 3; k++) out[k] = load(pixels[k]);
    };

    for (int start = 0; start < count; start += BLOCK) {
        const int end = count - start < BLOCK ? count - start : BLOCK;
        uint32_t inside = 0;
        if (!Checked && all_readable(readable, start, end, s.stride, first_tap)) {
            inside = UINT32_MAX;
            for (int at = 0; at < end; at += N) weigh(start + at, at, true);
        } else {
            for (int at = 0; at < end; at += N) inside |= uint32_t(weigh(start + at, at, false).inside) << (at / N);
        }
        for (int at = 0; at < end; at += N) {
            F out[3];
            if (__builtin_expect(inside >> (at / N) & 1, 1)) {
                prefetch(s.pixels + s.ahead, offset + at, s.stride, Chunks ? 2 : s.prefetch_rows);
                read_taps<Chunks>(s.pixels, offset + at, s.stride, high + at, low + at, wy + at, chunks, s.ny, out);
                for (int k = 0; k < 3; k++) out[k] = out[k] * load(scale + at);
            } else {
                read_border(start + at, at, out);
            }
            for (int k = 0; k < 3; k++) store(rgb + k * pitch + start + at, Cubic ? unit(out[k]) : out[k]);
        }
    }
}

// --- reading: rows stay rows and columns stay columns ----------------------------------------------------------------

template <bool Cubic>
static void column_weights(Sample& s, int width, Scratch& scratch) {
    const int pad = padded(width);
    F* weight = scratch.taps.get<F>(s.nx);
    const F reach = set1(0.5f + s.fx * (Cubic ? 2 : 1));
    for (int i = 0; i < pad; i += N) {
        F x = min(set1(float(i) + 0.5f) + iota(), set1(float(width) - 0.5f));
        F u = set1(s.matrix[0]) * x + set1(s.matrix[2]);
        F first = floor(u - reach) + set1(1);
        F scale = set1(1) / tap_weights<Cubic>(first - u, 1 / s.fx, 1, s.nx, weight);
        for (int k = 0; k < s.nx; k++) {
            weight[k] = weight[k] * scale;
            if (s.planar) {
                store(s.weight_W + k * pad + i, weight[k]);
            } else {
                for (int l = 0; l < N; l++) s.weight_W[(i + l) * s.nx + k] = reinterpret_cast<float*>(weight + k)[l];
            }
        }
        if (s.border != REFLECT) {  // a point whose taps all lie outside may as well lie close by
            first = min(max(first, set1(float(-s.nx))), set1(float(s.width)));
        }
        storei(s.first_W + i, to_int(first));
    }
}

// The columns' taps and weights, once a sample.
static void prepare_columns(Sample& s, int width, Scratch& scratch) {
    s.planar = PERMUTES && std::fabs(s.matrix[0]) * (N - 1) + s.nx + 1 <= 2 * N;
    s.filter == BICUBIC ? column_weights<true>(s, width, scratch) : column_weights<false>(s, width, scratch);
    int low = s.first_W[0], high = low;
    for (int x = 1; x < width; x++) {
        low = s.first_W[x] < low ? s.first_W[x] : low;
        high = s.first_W[x] > high ? s.first_W[x] : high;
    }
    s.column_low = low;
    s.column_count = high + s.nx - low;
    for (int x = 0; x < padded(width); x++) s.first_W[x] -= low;
}

// The source's rows at height `v` blended to one row of floats: columns [from, to), pixel after pixel or, if s.planar,
// plane after plane `plane_pitch` apart. Where CONSTANT leaves rows out, its colour takes their weight.
static void blend_columns(const Sample& s, float v, int from, int to, Scratch& scratch, float* out, int plane_pitch) {
    const bool cubic = s.filter == BICUBIC;
    const float first = (floor(set1(v - (0.5f + s.fy * (cubic ? 2 : 1)))) + set1(1))[0];
    F* weight = scratch.taps.get<F>(s.ny + (s.ny * (sizeof(float) + sizeof(uint8_t*)) + sizeof(F) - 1) / sizeof(F));
    const uint8_t** row = reinterpret_cast<const uint8_t**>(weight + s.ny);
    float* row_weight = reinterpret_cast<float*>(row + s.ny);
    const F sum = cubic ? tap_weights<true>(set1(first - v), 1 / s.fy, 1, s.ny, weight)
                        : tap_weights<false>(set1(first - v), 1 / s.fy, 1, s.ny, weight);
    int rows = 0;
    float inside = 0;
    for (int j = 0; j < s.ny; j++) {
        const float w = weight[j][0] / sum[0];
        const int at = tap_position(int(first) + j, s.height, s.border);
        if (at < 0 || w == 0) continue;
        row[rows] = s.pixels + at * s.stride;
        row_weight[rows++] = w / 255;
        inside += w;
    }
    const float rest = s.border == CONSTANT ? 1 - inside : 0;
    F start[3];
    if (s.planar) {
        for (int k = 0; k < 3; k++) start[k] = set1(rest * s.color[k]);
    } else {
        join3(set1(rest * s.color[0]), set1(rest * s.color[1]), set1(rest * s.color[2]), start);
    }
    const uint8_t* image_end = s.pixels + s.bytes;
    for (int c = from; c < to; c += N) {
        F pixel[3] = {set1(0), set1(0), set1(0)};
        for (int j = 0; j < rows; j++) {
            const uint8_t* p = row[j] + 3 * c;
            uint8_t tail[3 * N];
            if (__builtin_expect(image_end - p < 3 * N, 0)) {
                std::memcpy(tail, p, image_end - p);
                p = tail;
            }
            const F w = set1(row_weight[j]);
            for (int k = 0; k < 3; k++) pixel[k] = fma(load_bytes(p + k * N), w, pixel[k]);
        }
        if (s.planar) {
            F channel[3];
            split3(pixel, channel);
            for (int k = 0; k < 3; k++) store(out + k * plane_pitch + c - from, channel[k] + start[k]);
        } else {
            for (int k = 0; k < 3; k++) store(out + 3 * (c - from) + k * N, pixel[k] + start[k]);
        }
    }
}

// Two one-dimensional filters in float: down the columns, then along the row.
static void read_row_aligned(const Sample& s, float y, int count, Scratch& scratch, float* rgb, int pitch) {
    // Columns [low, high) are wanted, [from, to) of the source are read.
    const int low = s.column_low, high = low + s.column_count;
    int from = low < 0 ? 0 : low, to = high > s.width ? s.width : high;
    if (s.border == EDGE) {
        from = from > s.width - 1 ? s.width - 1 : from, to = to < 1 ? 1 : to;
    } else if (s.border == REFLECT && (low < 0 || high > s.width)) {
        from = 0, to = s.width;
    }
    const int origin = from < low ? from : low, end = to > high ? to : high;
    const int plane_pitch = (end - origin + 4 * 16) & ~15;
    float* plane = scratch.columns.get<float>(3 * size_t(plane_pitch));
    const int pixel_step = s.planar ? 1 : 3, channel_step = s.planar ? plane_pitch : 1;
    float* at_zero = plane - origin * pixel_step;  // where column 0 would be
    blend_columns(s, s.matrix[4] * y + s.matrix[5], from, to, scratch, at_zero + from * pixel_step, plane_pitch);
    for (int c = low; c < high; c++) {
        if (c >= 0 && c < s.width) {
            c = to - 1;  // to the first column past the source
            continue;
        }
        const int other = tap_position(c, s.width, s.border);
        for (int k = 0; k < 3; k++) {
            at_zero[c * pixel_step + k * channel_step] =
                other < 0 ? s.color[k] : at_zero[other * pixel_step + k * channel_step];
        }
    }

    const float* start = at_zero + low * pixel_step;
    if (s.planar) {  // sixteen columns' taps span at most two vectors: permutations bring them
        const int pad = padded(count);
        for (int i = 0; i < count; i += N) {
            const int32_t a = s.first_W[i], b = s.first_W[i + N - 1], base = a < b ? a : b;
            const I first = loadi(s.first_W + i);
            F sum[3] = {set1(0), set1(0), set1(0)};
            for (int t = 0; t < s.nx; t++) {
                const F weight = load(s.weight_W + t * pad + i);
                for (int k = 0; k < 3; k++) {
                    sum[k] = fma(pick(start + k * plane_pitch + base, first + (t - base)), weight, sum[k]);
                }
            }
            for (int k = 0; k < 3; k++) store(rgb + k * pitch + i, sum[k]);
        }
    } else {  // pixel by pixel, R G B and a neighbour's R at a time
        for (int i = 0; i < count; i += 4) {
            F4 pixel[4];
            for (int l = 0; l < 4; l++) {
                const float *from = start + 3 * s.first_W[i + l], *weight = s.weight_W + (i + l) * s.nx;
                F4 sum = {0, 0, 0, 0};
                for (int t = 0; t < s.nx; t++) sum = fma4(load4(from + 3 * t), weight[t], sum);
                pixel[l] = sum;
            }
            store_planes4(pixel, rgb + i, pitch);
        }
    }
    if (s.filter == BICUBIC) {
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < count; i += N) store(rgb + k * pitch + i, unit(load(rgb + k * pitch + i)));
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

// --- colour ----------------------------------------------------------------------------------------------------------

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
            return each(rgb, pitch, count, [&](F& r, F& g, F& b) {
                r = unit(r * a), g = unit(g * a), b = unit(b * a);
            });
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
            const F six_turns = set1(6 * (arg - std::floor(arg)));
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
    for (int i = 0; i < count; i += N) {
        sum = sum + luma(load(rgb + i), load(rgb + pitch + i), load(rgb + 2 * pitch + i));
    }
    float lanes[N], total = 0;
    store(lanes, sum);
    for (int i = 0; i < N; i++) total += lanes[i];
    return total / float(count);
}

// --- out -------------------------------------------------------------------------------------------------------------

// weight a + (1 - weight) b on three planes.
static void blend_rows(float* to, const float* a, const float* b, float weight, int pitch, int count) {
    const F own = set1(weight), other = set1(1 - weight);
    for (int k = 0; k < 3; k++)
        for (int i = k * pitch; i < k * pitch + count; i += N) {
            store(to + i, fma(load(a + i), own, load(b + i) * other));
        }
}

template <int Type, bool Stream, class T>
static inline void put(T* to, F x) {
    if constexpr (Type == FLOAT32) {
        Stream ? stream(to, x) : store(to, x);
    } else {
        const H half = Type == BFLOAT16 ? to_bf16(x) : to_fp16(x);
        Stream ? stream(to, half) : store(to, half);
    }
}

template <int Type, bool Stream, class T>
static void write_row(const float* rgb, int pitch, int count, const float* scale, const float* shift, T* to) {
    const F s0 = set1(scale[0]), s1 = set1(scale[1]), s2 = set1(scale[2]);
    const F m0 = set1(shift[0]), m1 = set1(shift[1]), m2 = set1(shift[2]);
    auto normalize = [&](int i, F out[3]) {
        const F r = load(rgb + i), g = load(rgb + pitch + i), b = load(rgb + 2 * pitch + i);
        join3(fma(r, s0, m0), fma(g, s1, m1), fma(b, s2, m2), out);
    };
    F out[3];
    int i = 0;
    for (; i + N <= count; i += N, to += 3 * N) {
        normalize(i, out);
        for (int k = 0; k < 3; k++) put<Type, Stream>(to + k * N, out[k]);
    }
    if (i < count) {
        alignas(64) T rest[3 * N];
        normalize(i, out);
        for (int k = 0; k < 3; k++) put<Type, false>(rest + k * N, out[k]);
        std::memcpy(to, rest, 3 * (count - i) * sizeof(T));
    }
}

template <int Type, class T>
static void write_row_to(
    const float* rgb, int pitch, int count, const float* scale, const float* shift, bool streaming, T* to
) {
    streaming = streaming && reinterpret_cast<uintptr_t>(to) % (N * sizeof(T)) == 0;
    (streaming ? write_row<Type, true, T> : write_row<Type, false, T>)(rgb, pitch, count, scale, shift, to);
}

// Normalise (value * scale + shift), interleave, cast and write one row to `to`; `streaming` goes around the caches.
static void finish_row(
    const float* rgb, int pitch, int count, const float* scale, const float* shift, int dtype, bool streaming, void* to
) {
    switch (dtype) {
        case FLOAT32:
            return write_row_to<FLOAT32>(rgb, pitch, count, scale, shift, streaming, static_cast<float*>(to));
        case BFLOAT16:
            return write_row_to<BFLOAT16>(rgb, pitch, count, scale, shift, streaming, static_cast<uint16_t*>(to));
        case FLOAT16:
            return write_row_to<FLOAT16>(rgb, pitch, count, scale, shift, streaming, static_cast<uint16_t*>(to));
    }
}

static void finish_writing() { fence(); }

constexpr Level level = {read_row, prepare_columns, color_step, mean_luma, blend_rows, finish_row, finish_writing};
