// The vectors of the AVX-512 level (F, BW, DQ, VL and VNNI: Intel since Cascade Lake, AMD since Zen 4): sixteen floats.

constexpr int N = 16;
typedef __m512 F;
typedef int32_t I __attribute__((vector_size(64)));
typedef __mmask16 M;

static inline F set1(float x) { return _mm512_set1_ps(x); }
static inline I set1i(int x) { return (I)_mm512_set1_epi32(x); }
static inline F iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
static inline I loadi(const int32_t* p) { return (I)_mm512_loadu_si512(p); }
static inline void storei(int32_t* p, I x) { _mm512_storeu_si512(p, (__m512i)x); }
static inline I bits(F x) { return (I)x; }
static inline F from_bits(I x) { return (F)x; }
static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
static inline M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline M le(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static inline M below(I a, int n) {  // 0 <= a < n, for n >= 0
    return _mm512_cmplt_epu32_mask((__m512i)a, _mm512_set1_epi32(n));
}
static inline M at_most(I a, int n) { return _mm512_cmple_epi32_mask((__m512i)a, _mm512_set1_epi32(n)); }
static inline M both(M a, M b) { return M(a & b); }
static inline unsigned mask_bits(M m) { return m; }
static inline bool all(M m) { return m == 0xffff; }
static inline bool any(M m) { return m != 0; }
static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
static inline F abs(F a) { return _mm512_abs_ps(a); }
static inline F reciprocal(F x) {  // to the last bit or two
    F y = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(x, y, set1(1)), y, y);
}
static inline F to_float(I x) { return _mm512_cvtepi32_ps((__m512i)x); }
static inline I to_int(F x) { return (I)_mm512_cvttps_epi32(x); }
static inline I round_int(F x) { return (I)_mm512_cvtps_epi32(x); }
static inline F floor(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline F load_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}

// Four weights a lane (|weight| < 2**13) as bytes a b c d: the upper 7 bits, signed, and the lower 6.
static inline void pack_weights(I a, I b, I c, I d, I& high, I& low) {
    __m512i ac = _mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)a, _mm512_slli_epi32((__m512i)c, 16));
    __m512i bd = _mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)b, _mm512_slli_epi32((__m512i)d, 16));
    __m512i byte = _mm512_set1_epi32(0x00ff00ff), six = _mm512_set1_epi32(0x003f003f);
    // 0xf8: first | (second & third)
    high = (I)_mm512_ternarylogic_epi32(
        _mm512_slli_epi16(_mm512_srai_epi16(bd, 6), 8), _mm512_srai_epi16(ac, 6), byte, 0xf8
    );
    low = (I)_mm512_ternarylogic_epi32(_mm512_slli_epi16(_mm512_and_si512(bd, six), 8), ac, six, 0xf8);
}

// Bytes times weights, four bytes to a sum.
static inline __m512i dot4(__m512i pixels, __m512i high, __m512i low) {
    __m512i upper = _mm512_dpbusd_epi32(_mm512_setzero_si512(), pixels, high);
    return _mm512_dpbusd_epi32(_mm512_slli_epi32(upper, 6), pixels, low);
}

static inline __m512i lanes_of(int i) {  // 4 i four times, 4 i + 1 four times, ...
    const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_add_epi32(first, _mm512_set1_epi32(4 * i));
}

// Sixteen pixels as R G B -, four to a vector, to vectors of R, G and B.
static inline void planes(const F x[4], F out[3]) {
    const __m512i rg = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i b = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 2, 6, 10, 14, 18, 22, 26, 30);
    F front = _mm512_permutex2var_ps(x[0], rg, x[1]), back = _mm512_permutex2var_ps(x[2], rg, x[3]);
    out[0] = _mm512_shuffle_f32x4(front, back, 0x44);
    out[1] = _mm512_shuffle_f32x4(front, back, 0xee);
    out[2] = _mm512_shuffle_f32x4(
        _mm512_permutex2var_ps(x[0], b, x[1]), _mm512_permutex2var_ps(x[2], b, x[3]), 0x44
    );
}

// Eight bytes of one row and of the next: two instructions, whatever the alignment.
static inline __m128i two_rows(const uint8_t* p, int64_t stride) {
    __m128d top = _mm_castsi128_pd(_mm_loadl_epi64((const __m128i*)p));
    return _mm_castpd_si128(_mm_loadh_pd(top, (const double*)(p + stride)));
}

static inline void read_2x2(const uint8_t* base, const int32_t* offset, int64_t stride, I high, I low, F out[3]) {
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 3, 8, 11, 1, 4, 9, 12, 2, 5, 10, 13, -1, -1, -1, -1)
    );
    F x[4];
    for (int i = 0; i < 4; i++) {
        const int32_t* o = offset + 4 * i;
        __m256i front = _mm256_inserti128_si256(
            _mm256_castsi128_si256(two_rows(base + o[0], stride)), two_rows(base + o[1], stride), 1
        );
        __m256i back = _mm256_inserti128_si256(
            _mm256_castsi128_si256(two_rows(base + o[2], stride)), two_rows(base + o[3], stride), 1
        );
        __m512i pixels = _mm512_inserti64x4(_mm512_castsi256_si512(front), back, 1);
        __m512i lanes = lanes_of(i);
        x[i] = _mm512_cvtepi32_ps(dot4(
            _mm512_shuffle_epi8(pixels, order), _mm512_permutexvar_epi32(lanes, (__m512i)high),
            _mm512_permutexvar_epi32(lanes, (__m512i)low)
        ));
    }
    planes(x, out);
}

static inline __m512i four_by_four(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d) {
    const __m512i order = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11, -1, -1, -1, -1)
    );
    __m256i top = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)a));
    __m256i bottom = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)c));
    top = _mm256_inserti128_si256(top, _mm_loadu_si128((const __m128i*)b), 1);
    bottom = _mm256_inserti128_si256(bottom, _mm_loadu_si128((const __m128i*)d), 1);
    __m512i rows = _mm512_inserti64x4(_mm512_castsi256_si512(top), bottom, 1);
    return _mm512_shuffle_epi8(rows, order);
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
    const int groups = Chunks ? 1 : (ny + 3) / 4;  // of four rows
    auto four_pixels = [&](int i) __attribute__((always_inline)) {
        const __m512i lanes = lanes_of(i);
        F sum = _mm512_setzero_ps();
        for (int g = 0; g < groups; g++) {
            const int64_t second = 4 * g + 1 < ny ? stride : 0, third = 4 * g + 2 < ny ? 2 * stride : 0;
            const int64_t fourth = 4 * g + 3 < ny ? 3 * stride : 0;
            __m512i t[4];
            for (int j = 0; j < 4; j++) {
                const uint8_t* p = base + offset[4 * i + j] + 4 * g * stride;
                const int32_t *h = high + 4 * i + j, *l = low + 4 * i + j;
                __m512i pixels = four_by_four(p, p + second, p + third, p + fourth);
                __m512i upper = _mm512_dpbusd_epi32(_mm512_setzero_si512(), pixels, _mm512_set1_epi32(*h));
                __m512i lower = _mm512_dpbusd_epi32(_mm512_setzero_si512(), pixels, _mm512_set1_epi32(*l));
                for (int c = 1; c < chunks; c++) {
                    p += 12, h += BLOCK, l += BLOCK;
                    pixels = four_by_four(p, p + second, p + third, p + fourth);
                    upper = _mm512_dpbusd_epi32(upper, pixels, _mm512_set1_epi32(*h));
                    lower = _mm512_dpbusd_epi32(lower, pixels, _mm512_set1_epi32(*l));
                }
                t[j] = _mm512_add_epi32(_mm512_slli_epi32(upper, 6), lower);
            }
            // Four pixels of four rows to four rows of four pixels.
            __m512i a = _mm512_shuffle_i32x4(t[0], t[1], 0x44), b = _mm512_shuffle_i32x4(t[0], t[1], 0xee);
            __m512i c = _mm512_shuffle_i32x4(t[2], t[3], 0x44), d = _mm512_shuffle_i32x4(t[2], t[3], 0xee);
            const __m512i rows[4] = {
                _mm512_shuffle_i32x4(a, c, 0x88), _mm512_shuffle_i32x4(a, c, 0xdd),
                _mm512_shuffle_i32x4(b, d, 0x88), _mm512_shuffle_i32x4(b, d, 0xdd),
            };
            for (int j = 0; j < 4; j++) {
                const F weight = _mm512_permutexvar_ps(lanes, load(wy + (4 * g + j) * BLOCK));
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rows[j]), weight, sum);
            }
        }
        return sum;
    };
    const F x[4] = {four_pixels(0), four_pixels(1), four_pixels(2), four_pixels(3)};
    planes(x, out);
}

// The values at p[index], index in 0..31.
constexpr bool PERMUTES = true;
static inline F pick(const float* p, I index) { return _mm512_permutex2var_ps(load(p), (__m512i)index, load(p + N)); }

// R G B and a neighbour's R of one pixel.
typedef __m128 F4;
static inline F4 load4(const float* p) { return _mm_loadu_ps(p); }
static inline F4 fma4(F4 a, float b, F4 c) { return _mm_fmadd_ps(a, _mm_set1_ps(b), c); }
static inline void store_planes4(const F4 pixel[4], float* rgb, int pitch) {
    F4 a = pixel[0], b = pixel[1], c = pixel[2], d = pixel[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(rgb, a), _mm_storeu_ps(rgb + pitch, b), _mm_storeu_ps(rgb + 2 * pitch, c);
}

// Sixteen pixels in memory order, RGBRGB..., to vectors of R, G and B, and back.
static inline void split3(const F rgb[3], F out[3]) {
    const __m512i r01 = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
    const __m512i r2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
    const __m512i g01 = _mm512_setr_epi32(1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0);
    const __m512i g2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30);
    const __m512i b01 = _mm512_setr_epi32(2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0);
    const __m512i b2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31);
    out[0] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(rgb[0], r01, rgb[1]), r2, rgb[2]);
    out[1] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(rgb[0], g01, rgb[1]), g2, rgb[2]);
    out[2] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(rgb[0], b01, rgb[1]), b2, rgb[2]);
}

static inline void join3(F r, F g, F b, F out[3]) {
    const __m512i rg0 = _mm512_setr_epi32(0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5);
    const __m512i b0 = _mm512_setr_epi32(0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15);
    const __m512i rg1 = _mm512_setr_epi32(21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26);
    const __m512i b1 = _mm512_setr_epi32(0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15);
    const __m512i rg2 = _mm512_setr_epi32(0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
    const __m512i b2 = _mm512_setr_epi32(26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31);
    out[0] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(r, rg0, g), b0, b);
    out[1] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(r, rg1, g), b1, b);
    out[2] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(r, rg2, g), b2, b);
}

static inline void stream(float* p, F x) { _mm512_stream_ps(p, x); }
static inline void fence() { _mm_sfence(); }

// Sixteen numbers of two bytes.
typedef __m256i H;
static inline void store(uint16_t* p, H x) { _mm256_storeu_si256((__m256i*)p, x); }
static inline void stream(uint16_t* p, H x) { _mm256_stream_si256((__m256i*)p, x); }
static inline H to_fp16(F x) { return _mm512_cvtps_ph(x, 0); }
static inline H to_bf16(F x) {
    I b = (I)x;
    return _mm512_cvtepi32_epi16((__m512i)((b + (((b >> 16) & 1) + 0x7fff)) >> 16));
}
