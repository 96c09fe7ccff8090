// Parts of JPEGs, decoded by libjpeg-turbo at a half, a quarter or an eighth of their size where that is enough, and
// turned upright. Loaded by jpeg.py through ctypes, which lets go of the GIL; it knows nothing of Python.
//
// What this does that a plain decode does not: the columns and rows outside the part are neither transformed nor
// converted, and nothing at all is read after its last row. The Huffman codes before that must be read in any case.

#include <csetjmp>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "jpeg_huffman.h"

using engine::Scan;

namespace {

// Mirrors jpeg.py's _JOB field by field.
struct Job {
    const uint8_t* data;
    uint8_t* out;  // upright, RGB, rows without gaps
    int64_t bytes;
    int32_t height, width;  // of the whole image as stored, as the caller believes
    int32_t orientation;    // EXIF, 1 to 8
    int32_t reduction;      // 1, 2, 4 or 8
    int32_t x0, y0, x1, y1; // the part, in pixels of the reduced image as stored; x0 on the edge of an MCU
    int32_t fast;           // 1: colours may be a little off
    int32_t alone;          // 1: libjpeg-turbo reads the Huffman codes, too
    int32_t done;           // set to 1 when `out` is filled
};

struct Errors {
    jpeg_error_mgr base;  // first: libjpeg hands back its address
    std::jmp_buf escape;
};

[[noreturn]] void fail(j_common_ptr info) { std::longjmp(reinterpret_cast<Errors*>(info->err)->escape, 1); }

// Warnings are counted, not printed.
void count(j_common_ptr info, int level) { info->err->num_warnings += level < 0; }

// An end-of-image marker as the last thing in the file: it was not cut off.
bool is_whole(const Job& job) {
    return job.bytes >= 2 && job.data[job.bytes - 2] == 0xFF && job.data[job.bytes - 1] == 0xD9;
}

// Whether nothing in what is left of the coded data would have libjpeg warn or stop for its place alone: no marker but
// restarts before the end. So a file's verdict does not depend on the part that was asked for.
bool runs_to_its_end(jpeg_decompress_struct& info) {
    if (jpeg_input_complete(&info)) return true;
    const uint8_t* at = info.src->next_input_byte;
    const uint8_t* end = at + info.src->bytes_in_buffer;
    while (end - at > 1 && (at = static_cast<const uint8_t*>(std::memchr(at, 0xFF, size_t(end - at - 1))))) {
        uint8_t next = at[1];
        if (next == 0xD9) return true;
        if (next != 0x00 && next != 0xFF && (next & 0xF8) != 0xD0) return false;
        at += next == 0xFF ? 1 : 2;
    }
    return true;  // the end itself may have been taken already
}

// Read rows up to `end` into `out`, `pitch` bytes apart.
void read_rows(jpeg_decompress_struct& info, int end, uint8_t* out, size_t pitch) {
    while (int(info.output_scanline) < end) {
        JSAMPROW rows[16];
        int wanted = std::min(16, end - int(info.output_scanline));
        for (int i = 0; i < wanted; i++) rows[i] = out + size_t(i) * pitch;
        out += jpeg_read_scanlines(&info, rows, JDIMENSION(wanted)) * pitch;
    }
}

// What reading a part needs besides its job.
struct Memory {
    uint8_t* stored;  // where the part goes as it is stored
    uint8_t* spare;   // room for one row
    Scan* scan;       // reads the coded data where it can; null: libjpeg-turbo does
};

// Read the part as it is stored. False when this file needs another decoder; may longjmp.
__attribute__((noinline)) bool read_part(jpeg_decompress_struct& info, const Job& job, const Memory& memory) {
    jpeg_mem_src(&info, job.data, static_cast<unsigned long>(job.bytes));
    jpeg_read_header(&info, TRUE);
    if (int(info.image_height) != job.height || int(info.image_width) != job.width) return false;
    if (info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK) return false;
    info.out_color_space = JCS_RGB;
    info.scale_num = 1;
    info.scale_denom = unsigned(job.reduction);
    if (job.fast) {
        info.dct_method = JDCT_IFAST;
        info.do_fancy_upsampling = FALSE;  // upsampling and conversion to RGB are one step then
    }
    jpeg_start_decompress(&info);
    if (job.x1 > int(info.output_width) || job.y1 > int(info.output_height)) return false;
    JDIMENSION x = JDIMENSION(job.x0), width = JDIMENSION(job.x1 - job.x0);
    if (width < info.output_width) jpeg_crop_scanline(&info, &x, &width);
    if (int(x) != job.x0 || int(width) != job.x1 - job.x0) return false;
    const bool ours = memory.scan && is_whole(job) && memory.scan->take_over(info);
    if (job.y0 > 0) jpeg_skip_scanlines(&info, JDIMENSION(job.y0));
    read_rows(info, job.y1, memory.stored, size_t(width) * 3);
    if (!ours && (!is_whole(job) || !runs_to_its_end(info))) {
        // Cut off, damaged, or followed by something of the camera's: reading on tells. Skipping would not look.
        read_rows(info, int(info.output_height), memory.spare, 0);
        jpeg_finish_decompress(&info);
    }
    return info.err->num_warnings == 0;
}

// `stored` (height x width) turned upright into `out`, by EXIF's definition of `orientation`.
void turn(const uint8_t* stored, ptrdiff_t height, ptrdiff_t width, int orientation, uint8_t* out) {
    bool transposed = orientation >= 5;
    bool right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;  // starts there
    bool bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    ptrdiff_t column = right ? -3 : 3, row = (bottom ? -3 : 3) * width;
    const uint8_t* start = stored + 3 * ((right ? width - 1 : 0) + (bottom ? (height - 1) * width : 0));
    ptrdiff_t rows = transposed ? width : height, columns = transposed ? height : width;
    if (transposed) std::swap(column, row);
    for (ptrdiff_t y = 0; y < rows; y++) {
        const uint8_t* from = start + y * row;
        for (ptrdiff_t x = 0; x < columns; x++, from += column, out += 3) {
            out[0] = from[0], out[1] = from[1], out[2] = from[2];
        }
    }
}

// The same, from the beginning to the end of a decompressor.
bool stored_part(const Job& job, const Memory& memory) {
    Errors errors;
    jpeg_decompress_struct info;
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = fail;
    errors.base.emit_message = count;
    volatile bool read = false;  // longjmp calls no destructor: nothing that has one is made before it
    if (setjmp(errors.escape) == 0) {
        jpeg_create_decompress(&info);
        read = read_part(info, job, memory);
    }
    jpeg_destroy_decompress(&info);
    return read;
}

// What a thread keeps from job to job.
struct Worker {
    std::vector<uint8_t> scratch;
    Scan scan;

    void decode(Job& job) {
        ptrdiff_t height = job.y1 - job.y0, width = job.x1 - job.x0;
        bool upright = job.orientation == 1;
        scratch.resize(size_t((upright ? 0 : height) + 1) * size_t(width) * 3);
        scan.make_room(size_t(job.bytes));
        uint8_t* spare = scratch.data();
        uint8_t* stored = upright ? job.out : spare + width * 3;
        if (!stored_part(job, {stored, spare, job.alone ? nullptr : &scan})) {
            // Only libjpeg-turbo's word counts on files that are not as they should be.
            if (!scan.gave_up() || !stored_part(job, {stored, spare, nullptr})) return;
        }
        if (!upright) turn(stored, height, width, job.orientation, job.out);
        job.done = 1;
    }
};

}  // namespace

extern "C" int engine_jpeg_version() { return 3; }

// Decode `count` jobs on `threads` threads, this one among them.
extern "C" void engine_jpeg_decode(Job* jobs, int count, int threads) {
    std::atomic<int> next{0};
    auto work = [&] {
        Worker worker;
        for (int i; (i = next.fetch_add(1)) < count;) {
            try {
                worker.decode(jobs[i]);
            } catch (const std::bad_alloc&) {  // the job is left undone
            }
        }
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 1; i < std::min(threads, count); i++) helpers.emplace_back(work);
    } catch (const std::system_error&) {  // no more threads to be had: those there are do it
    }
    work();
    for (auto& helper : helpers) helper.join();
}
