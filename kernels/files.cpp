// Many files read at once, and what JPEGs among them say of themselves. Loaded by files.py through ctypes, which lets go
// of the GIL; it knows nothing of Python.
//
// A batch of files is read into an arena: blocks of memory that stay mapped from one batch to the next, because mapping
// and faulting in fresh memory takes longer than copying the files into it. Headers are walked at once, while their
// bytes are in the processor's cache. The walk answers only for what is plain and usual, and by the same steps as
// engine/pictures.py, which is asked about everything else.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// Mirrors files.py's _FILE field by field.
struct File {
    const uint8_t* data;
    int64_t bytes;
    int32_t fault;  // 0, an errno, or one of the below
    int32_t known;  // whether the rest is
    int32_t height, width, orientation;  // as stored; EXIF, 1 to 8
    int32_t plain;  // the end of the image comes behind the frame
    int32_t sound;  // nothing that cannot stand there stands before it
};

enum { NOT_REGULAR = -1, EMPTY = -2 };

constexpr size_t kBlock = size_t(8) << 20, kLine = 64;

class Arena {
public:
    ~Arena() {
        for (const Block& block : blocks_) std::free(block.start);
    }

    // Memory in lines of its own; nullptr when there is none.
    uint8_t* take(size_t count) {
        count = (count + kLine - 1) / kLine * kLine;
        std::lock_guard<std::mutex> lock(mutex_);
        for (Block& block : blocks_) {
            if (block.size - block.used >= count) return taken(block, count);
        }
        size_t size = std::max(count, kBlock);
        void* start = std::aligned_alloc(kLine, size);
        if (start == nullptr) return nullptr;
        try {
            blocks_.push_back({static_cast<uint8_t*>(start), size, 0});
        } catch (const std::bad_alloc&) {
            std::free(start);
            return nullptr;
        }
        return taken(blocks_.back(), count);
    }

    int64_t bytes() const {
        size_t all = 0;
        for (const Block& block : blocks_) all += block.size;
        return int64_t(all);
    }

    // All of it may be used again; what the last batch did not need goes back to the system.
    void clear() {
        auto idle = [](const Block& block) { return block.used == 0; };
        for (const Block& block : blocks_) {
            if (idle(block)) std::free(block.start);
        }
        blocks_.erase(std::remove_if(blocks_.begin(), blocks_.end(), idle), blocks_.end());
        for (Block& block : blocks_) block.used = 0;
    }

private:
    struct Block {
        uint8_t* start;
        size_t size, used;
    };

    static uint8_t* taken(Block& block, size_t count) {
        uint8_t* at = block.start + block.used;
        block.used += count;
        return at;
    }

    std::mutex mutex_;
    std::vector<Block> blocks_;
};

class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number() const { return number_; }

private:
    int number_;
};

int opened(const char* path) {
    for (;;) {
        int number = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // not waiting for whoever might write to a pipe
        if (number >= 0 || errno != EINTR) return number;
    }
}

void read_content(const char* path, File& file, Arena& arena) {
    Descriptor from(opened(path));
    struct stat about;
    if (from.number() < 0 || ::fstat(from.number(), &about) != 0) {
        file.fault = errno;
        return;
    }
    if (!S_ISREG(about.st_mode)) {
        file.fault = S_ISDIR(about.st_mode) ? EISDIR : NOT_REGULAR;
        return;
    }
    size_t room = std::max<size_t>(size_t(about.st_size) + 1, 4096), have = 0;  // one more, to see the end
    uint8_t* out = arena.take(room);
    for (;;) {
        if (out == nullptr) {
            file.fault = ENOMEM;
            return;
        }
        ssize_t got = ::read(from.number(), out + have, room - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            file.fault = errno;
            return;
        }
        if (got == 0) break;
        have += size_t(got);
        if (have == room) {  // it has grown, or its size was not told
            uint8_t* larger = arena.take(room *= 2);
            if (larger != nullptr) std::memcpy(larger, out, have);
            out = larger;
        }
    }
    file.data = out, file.bytes = int64_t(have);
    if (have == 0) file.fault = EMPTY;
}

// -- what a JPEG says of itself: engine/pictures.py, in C++

class Bytes {
public:
    Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
    size_t size() const { return size_; }
    const uint8_t* data() const { return data_; }
    bool has(size_t at, size_t count) const { return at <= size_ && size_ - at >= count; }
    uint8_t operator[](size_t at) const { return data_[at]; }

    Bytes part(size_t start, size_t stop) const {  // as Python's slices: no further than the end
        stop = std::min(stop, size_);
        return start < stop ? Bytes(data_ + start, stop - start) : Bytes(data_, 0);
    }

    // `count` bytes as an unsigned number; the caller has asked whether they are there.
    uint32_t number(size_t at, int count, bool little) const {
        uint32_t value = 0;
        for (int i = 0; i < count; i++) value |= uint32_t(data_[at + size_t(i)]) << 8 * (little ? i : count - 1 - i);
        return value;
    }

private:
    const uint8_t* data_;
    size_t size_;
};

int sensible(int64_t orientation) { return orientation >= 1 && orientation <= 8 ? int(orientation) : 1; }

// EXIF 2.3, 4.6.4, of any type of integer.
int exif_orientation(const Bytes& tiff) {
    if (!tiff.has(0, 8)) return 1;
    bool little = tiff[0] == 'I' && tiff[1] == 'I';
    if (!little && !(tiff[0] == 'M' && tiff[1] == 'M')) return 1;
    size_t at = tiff.number(4, 4, little);
    if (!tiff.has(at, 2)) return 1;
    size_t entries = tiff.number(at, 2, little);
    for (size_t entry = 0; entry < entries; entry++) {
        size_t place = at + 2 + 12 * entry;
        if (!tiff.has(place, 4)) return 1;
        if (tiff.number(place, 2, little) != 0x0112) continue;
        int count = 2;
        bool is_signed = false;
        switch (tiff.number(place + 2, 2, little)) {
            case 1: count = 1; break;
            case 4: count = 4; break;
            case 6: count = 1, is_signed = true; break;
            case 8: is_signed = true; break;
            case 9: count = 4, is_signed = true; break;
            default: break;
        }
        if (!tiff.has(place + 8, size_t(count))) return 1;
        int64_t value = tiff.number(place + 8, count, little);
        if (is_signed && value >> (8 * count - 1)) value -= int64_t(1) << 8 * count;
        return sensible(value);
    }
    return 1;
}

bool is_bare(uint8_t marker) { return (marker >= 0xD0 && marker <= 0xD8) || marker == 0x01; }

bool says_size(uint8_t marker) {
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

// Where the frame's segment begins (ITU T.81, annex B), 0 when the segments before it cannot be followed.
size_t frame_of(const Bytes& jpeg, int& orientation) {
    size_t at = 2;
    orientation = 1;
    for (;;) {
        if (!jpeg.has(at, 2) || jpeg[at] != 0xFF) return 0;
        while (jpeg[at + 1] == 0xFF) {  // fill bytes
            at++;
            if (!jpeg.has(at, 2)) return 0;
        }
        uint8_t marker = jpeg[at + 1];
        if (is_bare(marker)) {
            at += 2;
            continue;
        }
        if (says_size(marker)) return at;
        if (!jpeg.has(at + 2, 2)) return 0;
        size_t length = jpeg.number(at + 2, 2, false);
        if (marker == 0xE1 && jpeg.has(at + 4, 6) && std::memcmp(jpeg.data() + at + 4, "Exif\0\0", 6) == 0) {
            orientation = exif_orientation(jpeg.part(at + 10, at + 2 + length));
        }
        at += 2 + length;
    }
}

// Walk the markers behind the frame. `end`: whether the end of the image comes at all; `sound`: whether it comes before
// anything that cannot stand there.
void look_behind(const Bytes& jpeg, size_t frame, bool& end, bool& sound) {
    end = sound = false;
    bool first = true;  // of what is an end, or cannot come before it
    size_t at = frame;
    while (jpeg.has(at, 2)) {
        const void* found = std::memchr(jpeg.data() + at, 0xFF, jpeg.size() - at - 1);
        if (found == nullptr) return;
        at = size_t(static_cast<const uint8_t*>(found) - jpeg.data());
        uint8_t next = jpeg[at + 1];
        bool is_end = next == 0xD9;
        bool stops = is_end || next == 0xD8 || (next >= 0x01 && next <= 0xCF && next != 0xC4) ||
                     (next >= 0xF0 && next <= 0xFD);
        if (first && stops && at >= frame + 4) sound = is_end, first = false;
        end = end || is_end;
        if (end && !first) return;
        at++;
    }
}

void walk(File& file) {
    Bytes jpeg(file.data, size_t(file.bytes));
    if (!jpeg.has(0, 2) || jpeg[0] != 0xFF || jpeg[1] != 0xD8) return;
    int orientation;
    size_t at = frame_of(jpeg, orientation);
    if (at == 0 || !jpeg.has(at + 4, 6)) return;
    uint32_t bits = jpeg[at + 4], height = jpeg.number(at + 5, 2, false), width = jpeg.number(at + 7, 2, false);
    uint32_t colours = jpeg[at + 9];
    if (bits != 8 || (colours != 1 && colours != 3) || height == 0 || width == 0) return;
    // A block of 64 takes a bit or more of Huffman code: there is a fault's text to be made.
    if (jpeg[at + 1] < 0xC9 && int64_t(height) * width > 1024 * file.bytes) return;
    bool end, sound;
    look_behind(jpeg, at, end, sound);
    file.known = 1, file.height = int32_t(height), file.width = int32_t(width), file.orientation = orientation;
    file.plain = end, file.sound = sound;
}

}  // namespace

extern "C" {

int engine_files_version() { return 1; }

void* engine_files_arena() { return new (std::nothrow) Arena; }

void engine_files_free(void* arena) { delete static_cast<Arena*>(arena); }

// Read `count` files, whose paths follow each other in `paths`, each with a zero behind it, into the arena, which is
// emptied first; with at most `threads` threads, the calling one among them. Returns the arena's size in bytes.
int64_t engine_files_read(void* arena, const char* paths, File* files, int32_t count, int32_t threads) {
    Arena& memory = *static_cast<Arena*>(arena);
    memory.clear();
    std::vector<const char*> each(static_cast<size_t>(count));
    for (auto& path : each) path = paths, paths += std::strlen(paths) + 1;
    std::atomic<int32_t> next{0};
    auto work = [&] {
        for (int32_t i; (i = next.fetch_add(1)) < count;) {
            read_content(each[size_t(i)], files[i], memory);
            if (files[i].fault == 0) walk(files[i]);
        }
    };
    std::vector<std::thread> others;
    try {
        for (int32_t i = 1; i < std::min(threads, count); i++) others.emplace_back(work);
    } catch (const std::system_error&) {
        // The system has no more threads to give: those that started do the work.
    }
    work();
    for (auto& other : others) other.join();
    return memory.bytes();
}

}  // extern "C"
