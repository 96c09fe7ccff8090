// What the levels of the CPU pass share: the arguments as Python hands them over, one sample made ready to read, and
// scratch memory that grows once and stays.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace engine {

// The codes of plan.py.
enum Filter : int32_t { NEAREST, BILINEAR, BICUBIC };
enum Border : int32_t { CONSTANT, EDGE, REFLECT };
enum Color : int32_t {
    NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY, SHUFFLE, INVERT, SOLARIZE, POSTERIZE, GAMMA
};
enum Fill : int32_t { FILL_NONE, FILL_CONSTANT, FILL_MEAN, FILL_NOISE };
enum Dtype : int32_t { FLOAT32, BFLOAT16, FLOAT16 };

constexpr int LOOK = 32;                      // plan.LOOK
constexpr float MAX_COORDINATE = 1048576.0f;  // reference.MAX_COORDINATE
constexpr float MAX_FOOTPRINT = 64.0f;        // reference.MAX_FOOTPRINT
constexpr int PREFETCH_ROWS = 4;              // of the output

// Rows are read in blocks of this many pixels, each in two rounds: first all weights and addresses, then all pixels.
// In one round every vector of pixels would wait for its own weights, a chain longer than the processor looks ahead.
constexpr int BLOCK = 128;  // at most 32 vectors: there is a word with a bit for each

constexpr float LUMA[3] = {0.299f, 0.587f, 0.114f};

// Mirrors cpu_pass.py's _Arguments field by field. Every pointer may be null where plan.py says None.
struct Arguments {
    const int64_t* image_B;    // address of each image's first byte
    const int32_t* size_B2;    // height, width
    const float* matrix_B33;
    const int32_t* border_B;
    const float* border_color_B3;
    const int32_t* color_op_BK;
    const float* color_arg_BK;
    const int32_t* rect_BR4;
    const int32_t* rect_fill_BR;
    const float* rect_color_BR3;
    const int64_t* noise_seed_B;
    const int64_t* partner_B;
    const float* weight_B;
    const int32_t* box_B4;
    void* out_BHW3;
    float mean[3];
    float std[3];
    int32_t batch, height, width, steps, rects, filter, antialias, dtype, level;
};

// Aligned memory that only grows, so that the second batch allocates nothing.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    template <class T>
    T* get(size_t count) {
        size_t bytes = (count * sizeof(T) + 127) & ~size_t(63);
        if (bytes > bytes_) {
            std::free(data_);
            bytes_ = 0;
            data_ = std::aligned_alloc(64, bytes);
            if (!data_) throw std::bad_alloc();
            bytes_ = bytes;
        }
        return static_cast<T*>(data_);
    }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

// How a sample is read.
enum Reader : int32_t {
    READ_2X2,      // footprint 1, bilinear or nearest, any matrix
    READ_TAPS,     // more taps, any matrix
    READ_ALIGNED,  // rows map to rows and columns to columns: two exact one-dimensional filters
};

// One sample, ready to be read row by row.
struct Sample {
    const uint8_t* pixels;
    int width, height;
    int64_t stride, bytes;
    float matrix[9];
    bool checked;  // points may lack a source: the last row is not 0 0 1, or coordinates pass MAX_COORDINATE
    int filter, border;
    float color[3];  // of the border
    Reader reader;
    float fx, fy;  // footprint
    int nx, ny;    // taps an axis
    int prefetch_rows;
    int64_t ahead;  // bytes from a pixel's taps to those of the pixel PREFETCH_ROWS below; 0 for perspective
    // READ_ALIGNED only: for each output column its first tap, counted from column_low, and its weights.
    int32_t* first_W;
    float* weight_W;  // (nx, padded width) if planar, else (padded width, nx)
    int column_low, column_count;
    bool planar;
    // Colour program.
    const int32_t* op_K;
    const float* arg_K;
    float* mean_K;  // of CONTRAST steps
};

// One thread's memory.
struct Scratch {
    Buffer row;      // R, G and B of one row
    Buffer rows;     // the same of every sample of a batch that mixes
    Buffer look;     // R, G and B of CONTRAST's look
    Buffer taps;     // READ_TAPS: weights; READ_ALIGNED: rows and their weights
    Buffer columns;  // READ_ALIGNED: the source's columns, blended vertically
};

// What one instruction set brings; the functions are documented in cpu_pass_level.h.
struct Level {
    void (*read_row)(const Sample&, float y, float x_step, int count, Scratch&, float* rgb, int pitch);
    void (*prepare_columns)(Sample&, int width, Scratch&);
    void (*color_step)(int op, float arg, float mean, float* rgb, int pitch, int count);
    float (*mean_luma)(const float* rgb, int pitch, int count);
    void (*blend_rows)(float* to, const float* a, const float* b, float weight, int pitch, int count);
    void (*finish_row)(
        const float* rgb, int pitch, int count, const float* scale, const float* shift, int dtype, bool streaming, void*
    );
    void (*finish_writing)();
};

inline int padded(int width) { return (width + 31) & ~15; }

}  // namespace engine
