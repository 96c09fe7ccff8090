// The vectors of the AVX2 level (with FMA and F16C): eight floats.

constexpr int N = 8;
typedef __m256 F;
typedef int32_t I __attribute__((vector_size(32)));
typedef I M;

static inline F set1(float x) { return _mm256_set1_ps(x); }
static inline I set1i(int x) { return (I)_mm256_set1_epi32(x); }
static inline F iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
static inline F load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
static inline I loadi(const int32_t* p) { return (I)_mm256_loadu_si256((const __m256i*)p); }
static inline void storei(int32_t* p, I x) { _mm256_storeu_si256((__m256i*)p, (__m256i)x); }
static inline I bits(F x) { return (I)x; }
static inline F from_bits(I x) { return (F)x; }
static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, (F)m); }
static inline M lt(F a, F b) { return (M)_mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline M le(F a, F b) { return (M)_mm256_cmp_ps(a, b, _CMP_LE_OQ); }
static inline M eq(F a, F b) { return (M)_mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static inline M below(I a, int n) { return (a > -1) & (a < n); }  // 0 <= a < n
static inline M at_most(I a, int n) { return a <= n; }
static inline M both(M a, M b) { return a & b; }
static inline unsigned mask_bits(M m) { return unsigned(_mm256_movemask_ps((F)m)); }
static inline bool all(M m) { return mask_bits(m) == 255; }
static inline bool any(M m) { return mask_bits(m) != 0; }
static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
static inline F abs(F a) { return _mm256_and_ps(a, (F)set1i(0x7fffffff)); }
static inline F reciprocal(F x) { return set1(1) / x; }
static inline F to_float(I x) { return _mm256_cvtepi32_ps((__m256i)x); }
static inline I to_int(F x) { return (I)_mm256_cvttps_epi32(x); }
static inline I round_int(F x) { return (I)_mm256_cvtps_epi32(x); }
static inline F floor(F x) { return _mm256_floor_ps(x); }
static inline F load_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}

// Four weights a lane (|weight| < 2**13) as bytes a b c d: the upper 7 bits, signed, and the lower 6.
static inline void pack_weights(I a, I b, I c, I d, I& high, I& low) {
    __m256i ac = _mm256_blend_epi16((__m256i)a, _mm256_slli_epi32((__m256i)c, 16), 0xaa);
    __m256i bd = _mm256_blend_epi16((__m256i)b, _mm256_slli_epi32((__m256i)d, 16), 0xaa);
    __m256i byte = _mm256_set1_epi32(0x00ff00ff), six = _mm256_set1_epi32(0x003f003f);
    high = (I)_mm256_or_si256(
        _mm256_and_si256(_mm256_srai_epi16(ac, 6), byte), _mm256_slli_epi16(_mm256_srai_epi16(bd, 6), 8)
    );
    low = (I)_mm256_or_si256(_mm256_and_si256(ac, six), _mm256_slli_epi16(_mm256_and_si256(bd, six), 8));
}

// Bytes times weights, four bytes to a sum. No pair of products may pass 2**15: the callers keep the weights of
// the bytes 0 and 1, and of 2 and 3, under 2**13 in sum.
static inline __m256i dot4(__m256i pixels, __m256i high, __m256i low) {
    __m256i upper = _mm256_madd_epi16(_mm256_maddubs_epi16(pixels, high), _mm256_set1_epi16(64));
    return _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_maddubs_epi16(pixels, low), _mm256_set1_epi16(1)));
}

// Pixel i and i + 4 as R G B - in the lanes of x[i] to vectors of R, G and B.
static inline void planes(const F x[4], F out[3]) {
    F ab = _mm256_unpacklo_ps(x[0], x[1]), cd = _mm256_unpacklo_ps(x[2], x[3]);
    out[0] = _mm256_shuffle_ps(ab, cd, 0x44);
    out[1] = _mm256_shuffle_ps(ab, cd, 0xee);
    out[2] = _mm256_shuffle_ps(_mm256_unpackhi_ps(x[0], x[1]), _mm256_unpackhi_ps(x[2], x[3]), 0x44);
}

// Eight bytes of one row and of the next: two instructions, whatever the alignment.
static inline __m128i two_rows(const uint8_t* p, int64_t stride) {
    __m128d top = _mm_castsi128_pd(_mm_loadl_epi64((const __m128i*)p));
    return _mm_castpd_si128(_mm_loadh_pd(top, (const double*)(p + stride)));
}

static inline void read_2x2(const uint8_t* base, const int32_t* offset, int64_t stride, I high, I low, F out[3]) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 3, 8, 11, 1, 4, 9, 12, 2, 5, 10, 13, -1, -1, -1, -1)
    );
    F x[4];
    for (int i = 0; i < 4; i++) {
        __m256i pixels = _mm256_inserti128_si256(
            _mm256_castsi128_si256(two_rows(base + offset[i], stride)), two_rows(base + offset[i + 4], stride), 1
        );
        __m256i lanes = _mm256_setr_epi32(i, i, i, i, i + 4, i + 4, i + 4, i + 4);
        x[i] = _mm256_cvtepi32_ps(dot4(
            _mm256_shuffle_epi8(pixels, order), _mm256_permutevar8x32_epi32((__m256i)high, lanes),
            _mm256_permutevar8x32_epi32((__m256i)low, lanes)
        ));
    }
    planes(x, out);
}

// The weights of four columns, packed for read_taps. Where there are no more columns, as words, 0 and 1, 2 and 3: fewer
// sums save more there than wider numbers cost. Of more, as bytes in the order 0 2 1 3.
template <int Chunks>
constexpr bool TAPS_IN_WORDS = Chunks == 1;
template <int Chunks>
static inline void pack_taps(const I w[4], I& high, I& low) {
    if constexpr (!TAPS_IN_WORDS<Chunks>) return pack_weights(w[0], w[2], w[1], w[3], high, low);
    high = (I)_mm256_blend_epi16((__m256i)w[0], _mm256_slli_epi32((__m256i)w[1], 16), 0xaa);
    low = (I)_mm256_blend_epi16((__m256i)w[2], _mm256_slli_epi32((__m256i)w[3], 16), 0xaa);
}

// Pixels from `Rows` rows of four columns, with weights in words.
template <int Rows>
static inline void read_words(
    const uint8_t* base, const int32_t* offset, int64_t stride, const int32_t* left, const int32_t* right,
    const float* wy, F out[3]
) {
    const __m256i order = _mm256_setr_epi8(  // R and G of columns 0 to 3; B
        0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1,
        2, -1, 5, -1, 8, -1, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1
    );
    auto pixel = [&](int i) __attribute__((always_inline)) {  // two halves of R and of G; of B
        const __m256i weights = _mm256_blend_epi32(_mm256_set1_epi32(left[i]), _mm256_set1_epi32(right[i]), 0xaa);
        F sum = _mm256_setzero_ps();
        for (int y = 0; y < Rows; y++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i*)(base + offset[i] + y * stride));
            const __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), order);
            const F row = _mm256_cvtepi32_ps(_mm256_madd_epi16(words, weights));
            sum = _mm256_fmadd_ps(row, _mm256_broadcast_ss(wy + y * BLOCK + i), sum);
        }
        return sum;
    };
    F rb[2], g[2];  // of pixels 0 to 3 and 4 to 7: R, and B in the upper half; G
    for (int i = 0; i < 2; i++) {
        const F ab = _mm256_hadd_ps(pixel(4 * i), pixel(4 * i + 1));
        const F cd = _mm256_hadd_ps(pixel(4 * i + 2), pixel(4 * i + 3));
        rb[i] = _mm256_shuffle_ps(ab, cd, 0x88), g[i] = _mm256_shuffle_ps(ab, cd, 0xdd);
    }
    out[0] = _mm256_permute2f128_ps(rb[0], rb[1], 0x20);
    out[1] = _mm256_permute2f128_ps(g[0], g[1], 0x20);
    out[2] = _mm256_permute2f128_ps(rb[0], rb[1], 0x31);
}

static inline __m256i four_columns(const uint8_t* top, const uint8_t* bottom) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11, -1, -1, -1, -1)
    );
    __m256i rows = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)top)), _mm_loadu_si128((const __m128i*)bottom), 1
    );
    return _mm256_shuffle_epi8(rows, order);
}

static inline F row_weights(const float* top, const float* bottom) {
    return _mm256_insertf128_ps(_mm256_broadcast_ss(top), _mm_broadcast_ss(bottom), 1);
}

// Pixels from `ny` rows of 4 * chunks columns each. Chunks of columns have packed weights and rows have weights (0 from
// ny to the next multiple of four), each BLOCK numbers after the last.
template <int Chunks>
static inline void read_taps(
    const uint8_t* base, const int32_t* offset, int64_t stride, const int32_t* high, const int32_t* low,
    const float* wy, int chunks, int ny, F out[3]
) {
    if constexpr (TAPS_IN_WORDS<Chunks>) {
        if (ny == 4) return read_words<4>(base, offset, stride, high, low, wy, out);
        if (ny == 3) return read_words<3>(base, offset, stride, high, low, wy, out);
        if (ny == 2) return read_words<2>(base, offset, stride, high, low, wy, out);
        return read_words<1>(base, offset, stride, high, low, wy, out);
    }
    __m128 pixel[N];
    for (int i = 0; i < N; i++) {
        F sum = _mm256_setzero_ps();
        for (int y = 0; y < ny; y += 2) {
            const uint8_t* p = base + offset[i] + y * stride;
            const int64_t second = y + 1 < ny ? stride : 0;
            const int32_t *h = high + i, *l = low + i;
            __m256i rows = dot4(four_columns(p, p + second), _mm256_set1_epi32(*h), _mm256_set1_epi32(*l));
            for (int c = 1; c < chunks; c++) {
                p += 12, h += BLOCK, l += BLOCK;
                __m256i more = dot4(four_columns(p, p + second), _mm256_set1_epi32(*h), _mm256_set1_epi32(*l));
                rows = _mm256_add_epi32(rows, more);
            }
            F weight = row_weights(wy + y * BLOCK + i, wy + (y + 1) * BLOCK + i);
            sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(rows), weight, sum);
        }
        pixel[i] = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    }
    F x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(pixel[i]), pixel[i + 4], 1);
    planes(x, out);
}

// Rows of pixels are picked one by one: a gather would be slower.
constexpr bool PERMUTES = false;
static inline F pick(const float*, I) { return set1(0); }

// R G B and a neighbour's R of one pixel.
typedef __m128 F4;
static inline F4 load4(const float* p) { return _mm_loadu_ps(p); }
static inline F4 fma4(F4 a, float b, F4 c) { return _mm_fmadd_ps(a, _mm_set1_ps(b), c); }
static inline void store_planes4(const F4 pixel[4], float* rgb, int pitch) {
    F4 a = pixel[0], b = pixel[1], c = pixel[2], d = pixel[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(rgb, a), _mm_storeu_ps(rgb + pitch, b), _mm_storeu_ps(rgb + 2 * pitch, c);
}

// Eight pixels in memory order, RGBRGB..., to vectors of R, G and B, and back.
static inline void split3(const F rgb[3], F out[3]) {
    F low = _mm256_blend_ps(rgb[0], rgb[1], 0xf0);                          // R0 G0 B0 R1, and 4 pixels on
    F middle = _mm256_permute2f128_ps(rgb[0], rgb[2], 0x21);                // G1 B1 R2 G2
    F high = _mm256_blend_ps(rgb[1], rgb[2], 0xf0);                         // B2 R3 G3 B3
    F r = _mm256_blend_ps(_mm256_blend_ps(low, middle, 0x44), high, 0x22);  // R0 R3 R2 R1
    F g = _mm256_blend_ps(_mm256_blend_ps(low, middle, 0x99), high, 0x44);  // G1 G0 G3 G2
    F b = _mm256_blend_ps(_mm256_blend_ps(low, middle, 0x22), high, 0x99);  // B2 B1 B0 B3
    out[0] = _mm256_permute_ps(r, _MM_SHUFFLE(1, 2, 3, 0));
    out[1] = _mm256_permute_ps(g, _MM_SHUFFLE(2, 3, 0, 1));
    out[2] = _mm256_permute_ps(b, _MM_SHUFFLE(3, 0, 1, 2));
}

static inline void join3(F r, F g, F b, F out[3]) {
    r = _mm256_permutevar8x32_ps(r, _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
    g = _mm256_permutevar8x32_ps(g, _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2));
    b = _mm256_permutevar8x32_ps(b, _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
    out[0] = _mm256_blend_ps(_mm256_blend_ps(r, g, 0x92), b, 0x24);
    out[1] = _mm256_blend_ps(_mm256_blend_ps(b, r, 0x92), g, 0x24);
    out[2] = _mm256_blend_ps(_mm256_blend_ps(g, b, 0x92), r, 0x24);
}

static inline void stream(float* p, F x) { _mm256_stream_ps(p, x); }
static inline void fence() { _mm_sfence(); }

// Eight numbers of two bytes.
typedef __m128i H;
static inline void store(uint16_t* p, H x) { _mm_storeu_si128((__m128i*)p, x); }
static inline void stream(uint16_t* p, H x) { _mm_stream_si128((__m128i*)p, x); }
static inline H to_fp16(F x) { return _mm256_cvtps_ph(x, 0); }
static inline H to_bf16(F x) {
    I b = (I)x;
    __m256i upper = (__m256i)((b + (((b >> 16) & 1) + 0x7fff)) >> 16 & 0xffff);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}
