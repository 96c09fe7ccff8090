// The vectors of the generic level: four floats in the compiler's portable vector type, which is SSE2 on any x86-64
// and NEON on aarch64, and plain loops where a kernel shuffles bytes. Slow beside the others, but the same arithmetic.

constexpr int N = 4;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef I M;

static inline F set1(float x) { return F{x, x, x, x}; }
static inline I set1i(int x) { return I{x, x, x, x}; }
static inline F iota() { return F{0, 1, 2, 3}; }
static inline F load(const float* p) { F x; std::memcpy(&x, p, sizeof x); return x; }
static inline void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
static inline I loadi(const int32_t* p) { I x; std::memcpy(&x, p, sizeof x); return x; }
static inline void storei(int32_t* p, I x) { std::memcpy(p, &x, sizeof x); }
static inline I bits(F x) { return (I)x; }
static inline F from_bits(I x) { return (F)x; }
static inline F fma(F a, F b, F c) { return a * b + c; }
static inline F select(M m, F a, F b) { return (F)((m & (I)a) | (~m & (I)b)); }
static inline M lt(F a, F b) { return a < b; }
static inline M le(F a, F b) { return a <= b; }
static inline M eq(F a, F b) { return a == b; }
static inline M below(I a, int n) { return (a >= 0) & (a < n); }  // 0 <= a < n
static inline M at_most(I a, int n) { return a <= n; }
static inline M both(M a, M b) { return a & b; }
static inline bool all(M m) { return m[0] & m[1] & m[2] & m[3]; }
static inline bool any(M m) { return m[0] | m[1] | m[2] | m[3]; }
static inline unsigned mask_bits(M m) { return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8); }
static inline F min(F a, F b) { return select(a < b, a, b); }
static inline F max(F a, F b) { return select(a > b, a, b); }
static inline F abs(F a) { return (F)((I)a & 0x7fffffff); }
static inline F reciprocal(F x) { return set1(1) / x; }
static inline F to_float(I x) { return __builtin_convertvector(x, F); }
static inline F in_int_range(F x) { return min(max(x, set1(-1073741824.0f)), set1(1073741824.0f)); }  // NaN: lowest
static inline I to_int(F x) { return __builtin_convertvector(in_int_range(x), I); }
static inline I round_int(F x) { return to_int(x + select(x < set1(0), set1(-0.5f), set1(0.5f))); }
static inline F floor(F x) {
    F whole = to_float(to_int(x));
    return whole - select(whole > x, set1(1), set1(0));
}
static inline F load_bytes(const uint8_t* p) { return F{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}; }

// Four weights a lane (|weight| < 2**13) as bytes a b c d: the upper 7 bits, signed, and the lower 6.
static inline void pack_weights(I a, I b, I c, I d, I& high, I& low) {
    high = ((a >> 6) & 255) | (((b >> 6) & 255) << 8) | (((c >> 6) & 255) << 16) | ((d >> 6) << 24);
    low = (a & 63) | ((b & 63) << 8) | ((c & 63) << 16) | ((d & 63) << 24);
}

static inline int weight_at(int32_t high, int32_t low, int k) {
    return int(int8_t(high >> (8 * k))) * 64 + ((low >> (8 * k)) & 63);
}

static inline void read_2x2(const uint8_t* base, const int32_t* offset, int64_t stride, I high, I low, F out[3]) {
    for (int i = 0; i < N; i++) {
        const uint8_t *top = base + offset[i], *bottom = top + stride;
        int a = weight_at(high[i], low[i], 0), b = weight_at(high[i], low[i], 1);
        int c = weight_at(high[i], low[i], 2), d = weight_at(high[i], low[i], 3);
        for (int k = 0; k < 3; k++) out[k][i] = float(a * top[k] + b * top[k + 3] + c * bottom[k] + d * bottom[k + 3]);
    }
}

// The weights of four columns, packed for read_taps: as bytes in the order 0 2 1 3.
template <int Chunks>
constexpr bool TAPS_IN_WORDS = false;
template <int Chunks>
static inline void pack_taps(const I w[4], I& high, I& low) { pack_weights(w[0], w[2], w[1], w[3], high, low); }

// Pixels from `ny` rows of 4 * chunks columns each. Chunks of columns have packed weights, in the order 0 2 1 3, and
// rows have weights (0 from ny to the next multiple of four), each BLOCK numbers after the last.
template <int Chunks>
static inline void read_taps(
    const uint8_t* base, const int32_t* offset, int64_t stride, const int32_t* high, const int32_t* low,
    const float* wy, int chunks, int ny, F out[3]
) {
    if (Chunks) chunks = Chunks;
    for (int i = 0; i < N; i++) {
        float sum[3] = {0, 0, 0};
        for (int y = 0; y < ny; y++) {
            const uint8_t* p = base + offset[i] + y * stride;
            int row[3] = {0, 0, 0};
            for (int j = i; j < i + chunks * BLOCK; j += BLOCK, p += 12) {
                int a = weight_at(high[j], low[j], 0), c = weight_at(high[j], low[j], 1);
                int b = weight_at(high[j], low[j], 2), d = weight_at(high[j], low[j], 3);
                for (int k = 0; k < 3; k++) row[k] += a * p[k] + b * p[k + 3] + c * p[k + 6] + d * p[k + 9];
            }
            for (int k = 0; k < 3; k++) sum[k] += wy[y * BLOCK + i] * float(row[k]);
        }
        for (int k = 0; k < 3; k++) out[k][i] = sum[k];
    }
}

// Rows of pixels are picked one by one: see F4.
constexpr bool PERMUTES = false;
static inline F pick(const float*, I) { return set1(0); }

// R G B and a neighbour's R of one pixel.
typedef F F4;
static inline F4 load4(const float* p) { return load(p); }
static inline F4 fma4(F4 a, float b, F4 c) { return a * b + c; }
static inline void store_planes4(const F4 pixel[4], float* rgb, int pitch) {
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) rgb[k * pitch + i] = pixel[i][k];
}

static inline void split3(const F rgb[3], F out[3]) {
    float from[3 * N], to[3][N];
    std::memcpy(from, rgb, sizeof from);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++) to[k][i] = from[3 * i + k];
    for (int k = 0; k < 3; k++) out[k] = load(to[k]);
}

static inline void join3(F r, F g, F b, F out[3]) {
    float to[3 * N];
    for (int i = 0; i < N; i++) to[3 * i] = r[i], to[3 * i + 1] = g[i], to[3 * i + 2] = b[i];
    std::memcpy(out, to, sizeof to);
}

static inline void stream(float* p, F x) { store(p, x); }
static inline void fence() {}

// Four numbers of two bytes.
typedef uint16_t H __attribute__((vector_size(8)));
static inline void store(uint16_t* p, H x) { std::memcpy(p, &x, sizeof x); }
static inline void stream(uint16_t* p, H x) { store(p, x); }
static inline uint16_t half(float value) {
    uint32_t b;
    std::memcpy(&b, &value, 4);
    uint32_t sign = (b >> 16) & 0x8000, a = b & 0x7fffffff;
    if (a >= 0x47800000) return uint16_t(sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00));  // too large, infinite or NaN
    if (a < 0x38800000) {  // subnormal: let the float adder round
        float magic = 0.5f, f;
        std::memcpy(&f, &a, 4);
        f += magic;
        std::memcpy(&a, &f, 4);
        return uint16_t(sign | (a - 0x3f000000));
    }
    return uint16_t(sign | ((a + 0xc8000fff + ((a >> 13) & 1)) >> 13));
}

static inline H to_fp16(F x) { return H{half(x[0]), half(x[1]), half(x[2]), half(x[3])}; }

static inline H to_bf16(F x) {
    I b = (I)x;
    return __builtin_convertvector((b + (((b >> 16) & 1) + 0x7fff)) >> 16, H);
}
