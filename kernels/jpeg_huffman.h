// The coded data of plain JPEGs, read faster than libjpeg-turbo reads it: that is over half of decoding a photo.
//
// Three things make the difference. The data is copied once without its stuffed zeros, so that more bits are one load
// with nothing to look for. One look in a table gives a code and the number behind it where both are short, as most
// are. And no number is made of what is skipped.
//
// All else stays libjpeg-turbo's: it is handed these coefficients in place of its own. They are the same, and so are
// the pixels. Nothing is judged here: a bad code, data that ends early, a marker out of place, and `Scan` gives up;
// whoever uses it has libjpeg-turbo read the file alone, and takes its word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>  // needs cstdio and does not say so

#include <new>
#include <vector>

namespace engine {

constexpr int LOOK_BITS = 10;
constexpr int LONGEST_CODE = 16;
constexpr int LARGEST_DC = 1 << 24;  // far beyond any photo's; sums grow without end in files made to overflow them
constexpr size_t SPARE = 4096;  // bytes: more than an MCU takes, 10 blocks of 64 codes of 16 bits with 15 behind them

// JPEG's order of coefficients (ITU T.81, figure A.6), as places in a block.
constexpr uint8_t PLACE[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

// A number from its bits and how many there are (T.81, F.2.2.1).
static inline int number_of(uint32_t bits, int size) {
    return int(bits) + (int(bits) < (1 << size >> 1) ? 1 - (1 << size) : 0);
}

// What the next bits are: a code, and a number of `size` bits after it. In one word, or compilers take it apart.
class Meaning {
public:
    Meaning() = default;
    Meaning(int code_length, int symbol) : word_(uint32_t((code_length + (symbol & 15)) | symbol << 8)) {}

    // The same where all of the number is seen.
    Meaning with(int number) const { return Meaning(word_ | 1 << 7 | uint32_t(number) << 16); }

    int length() const { return int(word_ & 31); }  // of both together; 0 where there is no code
    int size() const { return int(word_ >> 8 & 15); }
    int run() const { return int(word_ >> 12 & 15); }  // zeros before the number
    bool knows_number() const { return word_ >> 7 & 1; }
    int number() const { return int32_t(word_) >> 16; }

private:
    explicit Meaning(uint32_t word) : word_(word) {}
    uint32_t word_ = 0;
};

// A Huffman table to look things up in.
class Codes {
public:
    bool are(const JHUFF_TBL& table) const { return sound_ && !std::memcmp(&table_, &table, sizeof_codes()); }

    // False when they are no codes.
    bool make(const JHUFF_TBL& table) {
        sound_ = false;
        table_ = table;
        for (Meaning& meaning : seen_) meaning = Meaning();  // of a code longer than LOOK_BITS, or none
        uint32_t code = 0;
        int index = 0;
        for (int length = 1; length <= LONGEST_CODE; length++, code <<= 1) {
            first_[length] = index - int(code);
            for (int i = 0; i < table.bits[length]; i++, code++, index++) {
                if (index > 255 || code >> length) return false;
                if (length <= LOOK_BITS) show(code, length, table.huffval[index]);
            }
            end_[length] = code << (LONGEST_CODE - length);
        }
        end_[LONGEST_CODE + 1] = UINT32_MAX;
        return sound_ = true;
    }

    Meaning look(uint64_t bits) const { return seen_[bits >> (64 - LOOK_BITS)]; }

    // The same of codes longer than LOOK_BITS.
    Meaning search(uint64_t bits) const {
        const uint32_t code = uint32_t(bits >> (64 - LONGEST_CODE));
        int length = LOOK_BITS + 1;
        while (code >= end_[length]) length++;
        if (length > LONGEST_CODE) return Meaning();
        return {length, table_.huffval[(first_[length] + int(code >> (LONGEST_CODE - length))) & 255]};
    }

private:
    static constexpr size_t sizeof_codes() { return offsetof(JHUFF_TBL, sent_table); }

    void show(uint32_t code, int length, int symbol) {
        const int spare = LOOK_BITS - length, size = symbol & 15;
        const Meaning meaning(length, symbol);
        for (uint32_t rest = 0; rest < 1u << spare; rest++) {
            const bool known = size && size <= spare;
            seen_[code << spare | rest] = known ? meaning.with(number_of(rest >> (spare - size), size)) : meaning;
        }
    }

    JHUFF_TBL table_ = {};
    Meaning seen_[1 << LOOK_BITS];
    uint32_t end_[LONGEST_CODE + 2];  // codes of this length lie below, in the upper of 16 bits
    int first_[LONGEST_CODE + 1];     // a symbol's index less its code
    bool sound_ = false;
};

// Bits to come, the next on top.
struct Bits {
    uint64_t bits;
    int count;
    const uint8_t* at;

    // To 56 bits or more (Giesen, "Reading bits in far too many ways", variant 4).
    void fill() {
        uint64_t next;
        std::memcpy(&next, at, sizeof next);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        next = __builtin_bswap64(next);
#endif
        bits |= next >> count;
        at += (63 - count) >> 3;
        count |= 56;
    }

    void drop(int n) { bits <<= n, count -= n; }

    uint32_t take(int n) {  // 1 to 15
        const uint32_t taken = uint32_t(bits >> (64 - n));
        drop(n);
        return taken;
    }
};

// The one scan of a baseline JPEG. Kept from file to file: its memory, and the tables, which most files have alike.
class Scan {
public:
    // Memory for the next file, of so many bytes. Throws bad_alloc.
    void make_room(size_t bytes) {
        gave_up_ = false;
        if (bytes_.size() < bytes + SPARE) bytes_.resize(bytes + SPARE);
    }

    // Between jpeg_start_decompress and the first rows, all of the data in memory: have `info` use this. False where
    // it is not for this file; nothing has happened then.
    bool take_over(jpeg_decompress_struct& info) {
        if (info.progressive_mode || info.arith_code || info.comps_in_scan != info.num_components) return false;
        if (!find_codes(info) || !find_data(info)) return false;
        interval_ = info.restart_interval;
        segment_ = 0;
        begin_segment();
        info.client_data = this;
        auto* entropy = reinterpret_cast<Entropy*>(info.entropy);
        entropy->decode_mcu = [](j_decompress_ptr given, JBLOCKROW* blocks) -> boolean {
            Scan& scan = *static_cast<Scan*>(given->client_data);
            if (blocks ? scan.read<true>(blocks) : scan.read<false>(blocks)) return TRUE;
            scan.gave_up_ = true;
            given->err->error_exit(j_common_ptr(given));
            return FALSE;  // for the compiler
        };
        return true;
    }

    // Whether the file was another than a good one, and libjpeg-turbo stopped.
    bool gave_up() const { return gave_up_; }

private:
    // How libjpeg's jpeg_entropy_decoder begins, in jpegint.h since version 6 of 1995 and in all of libjpeg-turbo.
    struct Entropy {
        void (*start_pass)(j_decompress_ptr);
        boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW*);
    };

    bool find_codes(const jpeg_decompress_struct& info) {
        blocks_ = info.blocks_in_MCU;
        std::memset(held_, 0, sizeof held_);
        for (int i = 0; i < blocks_; i++) {
            const jpeg_component_info& component = *info.cur_comp_info[component_[i] = info.MCU_membership[i]];
            // libjpeg-turbo has looked at both numbers before a scan of this kind, and at one in its lossless ones.
            if (unsigned(component.dc_tbl_no) >= NUM_HUFF_TBLS || unsigned(component.ac_tbl_no) >= NUM_HUFF_TBLS) {
                return false;
            }
            dc_[i] = codes_of(info.dc_huff_tbl_ptrs[component.dc_tbl_no]);
            ac_[i] = codes_of(info.ac_huff_tbl_ptrs[component.ac_tbl_no]);
            if (!dc_[i] || !ac_[i]) return false;
        }
        return true;
    }

    const Codes* codes_of(const JHUFF_TBL* table) {
        if (!table) return nullptr;
        for (int i = 0; i < KEPT; i++) {
            if (codes_[i].are(*table)) return held_[i] = true, &codes_[i];
        }
        while (held_[next_ % KEPT]) next_++;  // not over another table of this file
        const unsigned oldest = next_++ % KEPT;
        held_[oldest] = true;
        return codes_[oldest].make(*table) ? &codes_[oldest] : nullptr;
    }

    // Copy the data to its end, without stuffing. False where anything but restarts in their order is in it.
    bool find_data(const jpeg_decompress_struct& info) {
        const uint8_t* from = info.src->next_input_byte;
        const uint8_t* end = from + info.src->bytes_in_buffer;
        uint8_t* to = bytes_.data();
        ends_.clear();
        for (;;) {
            const void* found = end - from > 1 ? std::memchr(from, 0xFF, size_t(end - from - 1)) : nullptr;
            if (!found) return false;
            const uint8_t* mark = static_cast<const uint8_t*>(found);
            std::memcpy(to, from, size_t(mark - from));
            to += mark - from;
            from = mark + 2;
            if (mark[1] == 0) {
                *to++ = 0xFF;
                continue;
            }
            const bool restart = mark[1] == 0xD0 + ends_.size() % 8 && info.restart_interval;
            if (!restart && mark[1] != 0xD9) return false;
            try {
                ends_.push_back(to);
            } catch (const std::bad_alloc&) {
                return false;
            }
            if (!restart) return true;
        }
    }

    void begin_segment() {
        bits_ = {0, 0, segment_ ? ends_[segment_ - 1] : bytes_.data()};
        left_ = interval_;
        std::memset(last_dc_, 0, sizeof last_dc_);
    }

    // Bits of the segment that are not read yet; less than none when it was read past its end.
    ptrdiff_t unread() const { return (ends_[segment_] - bits_.at) * 8 + bits_.count; }

    // One MCU into blocks of zeros, or, without `Store`, nowhere. False to give up.
    template <bool Store>
    bool read(JBLOCKROW* blocks) {
        if (interval_) {
            if (left_ == 0) {
                if (unread() >= 8 || segment_ + 1 == ends_.size()) return false;
                segment_++;
                begin_segment();
            }
            left_--;
        }
        Bits bits = bits_;
        for (int i = 0; i < blocks_; i++) {
            if (!read_block<Store>(*dc_[i], *ac_[i], last_dc_[component_[i]], bits, Store ? *blocks[i] : nullptr)) {
                return false;
            }
        }
        bits_ = bits;
        for (int last : last_dc_) {
            if (last > LARGEST_DC || last < -LARGEST_DC) return false;
        }
        return unread() >= 0;
    }

    template <bool Store>
    __attribute__((always_inline)) static inline bool read_block(
        const Codes& dc, const Codes& ac, int& last_dc, Bits& bits, JCOEF* block
    ) {
        bits.fill();
        Meaning first = dc.look(bits.bits);
        if (!first.length() && !(first = dc.search(bits.bits)).length()) return false;
        last_dc += number_after(first, bits);
        if (Store) block[0] = JCOEF(last_dc);
        for (int k = 1; k < 64; k++) {
            if (bits.count < LONGEST_CODE + 15) bits.fill();
            Meaning next = ac.look(bits.bits);
            if (__builtin_expect(!next.knows_number(), 0)) {
                if (!next.length() && !(next = ac.search(bits.bits)).length()) return false;
                if (!next.size() && next.run() != 15) {  // the rest are zeros
                    bits.drop(next.length());
                    break;
                }
                k += next.run();
                const int number = number_after(next, bits);
                if (!next.size()) continue;  // sixteen zeros
                if (k > 63) return false;
                if (Store) block[PLACE[k]] = JCOEF(number);
                continue;
            }
            k += next.run();
            bits.drop(next.length());
            if (__builtin_expect(k > 63, 0)) return false;
            if (Store) block[PLACE[k]] = JCOEF(next.number());
        }
        return true;
    }

    static int number_after(Meaning meaning, Bits& bits) {
        bits.drop(meaning.length() - meaning.size());
        return meaning.size() ? number_of(bits.take(meaning.size()), meaning.size()) : 0;
    }

    static constexpr int KEPT = 16;  // more than the 8 of one file
    Codes codes_[KEPT];
    bool held_[KEPT];  // those of this file
    unsigned next_ = 0;
    std::vector<uint8_t> bytes_;
    std::vector<const uint8_t*> ends_;  // of the segments between restarts
    const Codes *dc_[D_MAX_BLOCKS_IN_MCU], *ac_[D_MAX_BLOCKS_IN_MCU];  // by block of an MCU
    int component_[D_MAX_BLOCKS_IN_MCU];
    int blocks_ = 0;
    unsigned interval_ = 0, left_ = 0;  // MCUs between restarts, and to the next
    size_t segment_ = 0;
    int last_dc_[MAX_COMPS_IN_SCAN];
    Bits bits_ = {};
    bool gave_up_ = false;
};

}  // namespace engine
