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

// --- reading: any matrix, at most 4 x 4 taps --------------------------------------------------------------------------

constexpr int PATCH_STRIDE = 16, PATCH_BYTES = 64;

// The taps of N pixels, brought inside by the border's rule; zeros where the border colour stands.
static __attribute__((noinline)) void fill_patches(
    const Sample& s, const int32_t* column_N, const int32_t* row_N, unsigned has_source, int nx, int ny, uint8_t* patch
) {
    for (int i = 0; i < N; i++, patch += PATCH_BYTES) {
        if (!(has_source >> i & 1)) {
            std::memset(patch, 0, PATCH_BYTES);
            continue;
        }
        int column[4];
        for (int k = 0; k < nx; k++) column[k] = tap_position(column_N[i] + k, s.width, s.border);
        for (int j = 0; j < ny; j++) {
            uint8_t* to = patch + j * PATCH_STRIDE;
            int row = tap_position(row_N[i] + j, s.height, s.border);
            const uint8_t* from = s.pixels + row * s.stride;
            for (int k = 0; k < nx; k++, to += 3) {
                if (row < 0 || column[k] < 0) {
                    to[0] = to[1] = to[2] = 0;
                } else {
                    const uint8_t* pixel = from + 3 * column[k];
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

// The offsets of N patches.
static inline void patch_offsets(int32_t* offset) {
    for (int i = 0; i < N; i++) offset[i] = i * PATCH_BYTES;
}

// A tilted row crosses many rows of the source, which no processor foresees: ask for the taps of a later row now.
static inline void prefetch(const Sample& s, const int32_t* offset, int rows) {
    for (int i = 0; i < N; i += 4)
        for (int j = 0; j < rows; j++) __builtin_prefetch(s.pixels + offset[i] + s.ahead + j * s.stride);
}

template <bool Checked>
static void read_row_2x2(const Sample& s, float y, float x_step, int count, float* rgb, int pitch) {
    constexpr float ONE = 127 * 64;  // the largest sum of weights that bytes hold
    const Locator<Checked> locate(s, y, x_step);
    const bool nearest = s.filter == NEAREST;
    const int taps = nearest ? 1 : 2;
    const F half = set1(nearest ? 0.0f : 0.5f), blend = set1(nearest ? 0.0f : ONE);
    const int last_offset = int(s.bytes - s.stride - 8);  // may be negative: then every pixel takes a patch
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
        I high, low;
        pack_weights(int(ONE) - wx - wy + wxy, wx - wxy, wy - wxy, wxy, high, low);
        M inside = both(below(p, s.width - taps + 1), below(q, s.height - taps + 1));
        inside = both(both(inside, has_source), at_most(at, last_offset));
        if (__builtin_expect(all(inside), 1)) {
            storei(offset, at);
            prefetch(s, offset, 1);
            read_2x2(s.pixels, offset, s.stride, high, low, out);
            for (int k = 0; k < 3; k++) store(rgb + k * pitch + i, out[k] * set1(1 / (255 * ONE)));
            continue;
        }
        M touched = both(below(p + (taps - 1), s.width + taps - 1), below(q + (taps - 1), s.height + taps - 1));
        if (s.border == CONSTANT && !any(both(touched, has_source))) {
            fill_color(s, out);
        } else {
            alignas(64) uint8_t patch[N * PATCH_BYTES];
            alignas(64) int32_t columns[N], rows[N];
            storei(columns, p), storei(rows, q);
            fill_patches(s, columns, rows, mask_bits(has_source), taps, taps, patch);
            patch_offsets(offset);
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

template <bool Checked, bool Cubic>
static void read_row_4x4(const Sample& s, float y, float x_step, int count, float* rgb, int pitch) {
    // Taps 0 and 2, and 1 and 3, share a 16-bit sum in AVX2: their weights stay under 2**13 - 64 together. At
    // footprints up to 2 two such triangle weights sum to at most 1, and two cubic ones at footprint 1 to at most 1.2.
    constexpr float ONE = Cubic ? 100 * 64 : 127 * 64;
    const Locator<Checked> locate(s, y, x_step);
    const F reach_x = set1(0.5f + s.fx * (Cubic ? 2 : 1)), reach_y = set1(0.5f + s.fy * (Cubic ? 2 : 1));
    const F per_fx = set1(1 / s.fx), per_fy = set1(1 / s.fy);
    const int64_t last = s.bytes - 3 * s.stride - 16;
    const int last_offset = int(last < 0 ? -1 : last);
    alignas(64) int32_t offset[N];
    for (int i = 0; i < count; i += N) {
        F u, v, out[3];
        M has_source = locate(i, u, v);
        F column = floor(u - reach_x) + set1(1), row = floor(v - reach_y) + set1(1);
        F dx = column - u + set1(0.5f), dy = row - v + set1(0.5f);
        F wx[4], wy[4];
        for (int k = 0; k < 4; k++) {
            F tx = abs(dx + set1(float(k))) * per_fx, ty = abs(dy + set1(float(k))) * per_fy;
            wx[k] = Cubic ? keys_cubic(tx) : triangle(tx);
            wy[k] = Cubic ? keys_cubic(ty) : triangle(ty);
        }
        I whole[4];
        for (int k = 0; k < 4; k++) whole[k] = round_int(wx[k] * set1(ONE));
        F sum_x = to_float(whole[0] + whole[1] + whole[2] + whole[3]);
        F sum_y = (wy[0] + wy[1]) + (wy[2] + wy[3]);
        F scale = set1(1) / (sum_x * sum_y * set1(255));
        I high, low;
        pack_weights(whole[0], whole[2], whole[1], whole[3], high, low);
        I p = to_int(column), q = to_int(row);
        I at = q * int(s.stride) + p * 3;
        M inside = both(below(p, s.width - s.nx + 1), below(q, s.height - s.ny + 1));
        inside = both(both(inside, has_source), at_most(at, last_offset));
        if (__builtin_expect(all(inside), 1)) {
            storei(offset, at);
            prefetch(s, offset, 2);
            read_4x4(s.pixels, offset, s.stride, high, low, wy, out);
            for (int k = 0; k < 3; k++) out[k] = out[k] * scale;
        } else {
            M touched = both(below(p + (s.nx - 1), s.width + s.nx - 1), below(q + (s.ny - 1), s.height + s.ny - 1));
            if (s.border == CONSTANT && !any(both(touched, has_source))) {
                fill_color(s, out);
            } else {
                alignas(64) uint8_t patch[N * PATCH_BYTES] = {};
                alignas(64) int32_t columns[N], rows[N];
                storei(columns, p), storei(rows, q);
                fill_patches(s, columns, rows, mask_bits(has_source), s.nx, s.ny, patch);
                patch_offsets(offset);
                read_4x4(patch, offset, PATCH_STRIDE, high, low, wy, out);
                F covered = select(has_source, set1(1), set1(0));
                if (s.border == CONSTANT) {
                    const F zero = set1(0);
                    F cx = zero, cy = zero;
                    for (int k = 0; k < 4; k++) {
                        cx = cx + select(below(p + k, s.width), wx[k], zero);
                        cy = cy + select(below(q + k, s.height), wy[k], zero);
                    }
                    F all_x = (wx[0] + wx[1]) + (wx[2] + wx[3]);
                    covered = covered * (cx / all_x) * (cy / sum_y);
                }
                for (int k = 0; k < 3; k++) out[k] = out[k] * scale;
                add_color(s, covered, out);
            }
        }
        for (int k = 0; k < 3; k++) {
            if (Cubic) out[k] = min(max(out[k], set1(0)), set1(1));
            store(rgb + k * pitch + i, out[k]);
        }
    }
}

// --- reading: any matrix, many taps ------------------------------------------------------------------------------------

// The weights of `taps` positions from `first` on, not yet normalised; returns their sum. Writes up to the next
// multiple of 16, where they are 0.
static inline float tap_weights(int filter, float first_minus_u, float footprint, int taps, float* weight) {
    F sum = set1(0);
    const F per = set1(1 / footprint), start = set1(first_minus_u + 0.5f);
    for (int k = 0; k < ((taps + 15) & ~15); k += N) {
        F index = set1(float(k)) + iota();
        F t = abs(start + index) * per;
        F w = filter == BICUBIC ? keys_cubic(t) : triangle(t);
        w = select(lt(index, set1(float(taps))), w, set1(0));
        store(weight + k, w);
        sum = sum + w;
    }
    float lanes[N], total = 0;
    store(lanes, sum);
    for (int i = 0; i < N; i++) total += lanes[i];
    return total;
}

// One pixel the plain way: taps mapped one by one.
static __attribute__((noinline)) void read_border_pixel(
    const Sample& s, int p, int q, const float* wx, const float* wy, float scale, float out[3]
) {
    float sum[3] = {0, 0, 0}, inside = 0;
    int offset[4 * int(MAX_FOOTPRINT) + 4];
    float inside_x = 0;
    for (int k = 0; k < s.nx; k++) {
        int column = tap_position(p + k, s.width, s.border);
        offset[k] = 3 * column;
        if (column >= 0) inside_x += wx[k];
    }
    for (int j = 0; j < s.ny; j++) {
        int row = tap_position(q + j, s.height, s.border);
        if (row < 0) continue;
        const uint8_t* from = s.pixels + row * s.stride;
        float line[3] = {0, 0, 0};
        for (int k = 0; k < s.nx; k++) {
            if (offset[k] < 0) continue;
            const uint8_t* pixel = from + offset[k];
            for (int c = 0; c < 3; c++) line[c] += wx[k] * float(pixel[c]);
        }
        for (int c = 0; c < 3; c++) sum[c] += wy[j] * line[c];
        inside += wy[j] * inside_x;
    }
    for (int c = 0; c < 3; c++) out[c] = sum[c] * (scale / 255) + (1 - inside * scale) * s.color[c];
}

template <bool Checked>
static void read_row_many(const Sample& s, float y, float x_step, int count, Scratch& scratch, float* rgb, int pitch) {
    constexpr float ONE = 63 * 64;  // two weights share a 16-bit sum in AVX2
    const Locator<Checked> locate(s, y, x_step);
    const float sides = s.filter == BICUBIC ? 2 : 1;
    const int pad_x = (s.nx + 15) & ~15, pad_y = (s.ny + 15) & ~15, chunks = (s.nx + 3) / 4;
    float* wx = scratch.taps.get<float>(3 * pad_x + pad_y);
    float* wy = wx + pad_x;
    int32_t* high = reinterpret_cast<int32_t*>(wy + pad_y);
    int32_t* low = high + pad_x;
    const int64_t last_offset = s.bytes - (s.ny - 1) * s.stride - 12 * chunks - 4;
    alignas(64) float us[N], vs[N];
    for (int i = 0; i < count; i += N) {
        F u, v;
        unsigned has_source = mask_bits(locate(i, u, v));
        store(us, u), store(vs, v);
        for (int l = 0; l < N; l++) {
            float pixel[3] = {s.color[0], s.color[1], s.color[2]};
            F at = floor(set1(us[l] - 0.5f - sides * s.fx)), bt = floor(set1(vs[l] - 0.5f - sides * s.fy));
            int p = int(at[0]) + 1, q = int(bt[0]) + 1;
            bool outside = p + s.nx <= 0 || p >= s.width || q + s.ny <= 0 || q >= s.height;
            if ((has_source >> l & 1) && !(outside && s.border == CONSTANT)) {
                float sum_x = tap_weights(s.filter, float(p) - us[l], s.fx, s.nx, wx);
                float sum_y = tap_weights(s.filter, float(q) - vs[l], s.fy, s.ny, wy);
                int64_t offset = q * s.stride + 3 * int64_t(p);
                if (p >= 0 && q >= 0 && p + s.nx <= s.width && q + s.ny <= s.height && offset <= last_offset) {
                    int sum = 0;
                    for (int j = 0; j < chunks; j++) {
                        int whole[4];
                        for (int k = 0; k < 4; k++) whole[k] = int(__builtin_floorf(wx[4 * j + k] * ONE + 0.5f));
                        sum += whole[0] + whole[1] + whole[2] + whole[3];
                        high[j] = (whole[0] >> 6 & 255) | (whole[2] >> 6 & 255) << 8 | (whole[1] >> 6 & 255) << 16
                            | int(unsigned(whole[3] >> 6) << 24);
                        low[j] = (whole[0] & 63) | (whole[2] & 63) << 8 | (whole[1] & 63) << 16 | (whole[3] & 63) << 24;
                    }
                    read_many(s.pixels + offset, s.stride, high, low, chunks, wy, s.ny, pixel);
                    float scale = 1 / (255 * float(sum) * sum_y);
                    for (int c = 0; c < 3; c++) pixel[c] *= scale;
                } else {
                    read_border_pixel(s, p, q, wx, wy, 1 / (sum_x * sum_y), pixel);
                }
            }
            for (int c = 0; c < 3; c++) {
                float x = pixel[c];
                rgb[c * pitch + i + l] = x < 0 ? 0 : x > 1 ? 1 : x;
            }
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
    const bool checked = s.checked, cubic = s.filter == BICUBIC;
    switch (s.reader) {
        case READ_2X2:
            return (checked ? read_row_2x2<true> : read_row_2x2<false>)(s, y, x_step, count, rgb, pitch);
        case READ_4X4:
            if (cubic) return (checked ? read_row_4x4<true, true> : read_row_4x4<false, true>)(
                s, y, x_step, count, rgb, pitch
            );
            return (checked ? read_row_4x4<true, false> : read_row_4x4<false, false>)(s, y, x_step, count, rgb, pitch);
        case READ_MANY:
            return (checked ? read_row_many<true> : read_row_many<false>)(s, y, x_step, count, scratch, rgb, pitch);
        case READ_ALIGNED:
            return read_row_aligned(s, y, count, scratch, rgb, pitch);
    }
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
