// The compiler's checks for undefined behaviour call these handlers; each gets the place in the
// source. The layouts of the data are those of GCC's and Clang's -fsanitize=undefined.
#include "state.h"

namespace {

struct Place {
    const char* file;
    uint32_t line, column;
};

struct Type {
    uint16_t kind, info;
    char name[1];
};

struct Overflow {
    Place place;
    const Type* type;
};

struct Bounds {
    Place place;
    const Type* array;
    const Type* index;
};

struct Shift {
    Place place;
    const Type* left;
    const Type* right;
};

struct Cast {
    Place place;
    const Type* from;
    const Type* to;
};

struct Unreachable {
    Place place;
};

struct Mismatch {
    Place place;
    const Type* type;
    unsigned char log_alignment, kind;
};

emulator::Site site(const Place& place) { return {nullptr, place.file, place.line}; }

// A value of an integer type, at most 64 bits wide: passed directly, sign-extended here.
long long value(const Type* type, uintptr_t raw) {
    const unsigned bits = 1u << (type->info >> 1);
    const bool is_signed = type->info & 1;
    if (bits >= 64 || !is_signed) return static_cast<long long>(raw);
    return static_cast<long long>(raw << (64 - bits)) >> (64 - bits);
}

[[noreturn]] void overflow(const Overflow* data, uintptr_t a, const char* symbol, uintptr_t b) {
    emulator::fault(site(data->place), "integer overflow: %lld %s %lld does not fit %s",
                    value(data->type, a), symbol, value(data->type, b), data->type->name);
}

}  // namespace

EMULATOR_API void __ubsan_handle_add_overflow(const Overflow* data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "+", b);
}

EMULATOR_API void __ubsan_handle_sub_overflow(const Overflow* data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "-", b);
}

EMULATOR_API void __ubsan_handle_mul_overflow(const Overflow* data, uintptr_t a, uintptr_t b) {
    overflow(data, a, "*", b);
}

EMULATOR_API void __ubsan_handle_negate_overflow(const Overflow* data, uintptr_t a) {
    overflow(data, 0, "-", a);
}

EMULATOR_API void __ubsan_handle_divrem_overflow(const Overflow* data, uintptr_t a, uintptr_t b) {
    if (value(data->type, b) == 0)
        emulator::fault(site(data->place), "division by zero: %lld / 0", value(data->type, a));
    overflow(data, a, "/", b);
}

EMULATOR_API void __ubsan_handle_shift_out_of_bounds(const Shift* data, uintptr_t a, uintptr_t b) {
    emulator::fault(site(data->place), "undefined shift: %lld shifted by %lld in %s",
                    value(data->left, a), value(data->right, b), data->left->name);
}

EMULATOR_API void __ubsan_handle_out_of_bounds(const Bounds* data, uintptr_t index) {
    emulator::fault(site(data->place), "array index out of bounds: %lld of %s",
                    value(data->index, index), data->array->name);
}

EMULATOR_API void __ubsan_handle_type_mismatch_v1(const Mismatch* data, uintptr_t address) {
    const unsigned alignment = 1u << data->log_alignment;
    emulator::fault(site(data->place), "misaligned access: %s needs %u-byte alignment, the "
                    "address is %u bytes off", data->type->name, alignment,
                    static_cast<unsigned>(address % alignment));
}

// CUDA's conversions saturate, this machine's don't; C++ defines neither.
EMULATOR_API void __ubsan_handle_float_cast_overflow(const Cast* data, uintptr_t) {
    emulator::fault(site(data->place), "undefined conversion: a %s that does not fit %s",
                    data->from->name, data->to->name);
}

EMULATOR_API void __ubsan_handle_builtin_unreachable(const Unreachable* data) {
    emulator::fault(site(data->place), "reached __builtin_unreachable()");
}

EMULATOR_API void __ubsan_handle_missing_return(const Unreachable* data) {
    emulator::fault(site(data->place), "the end of a function that returns a value");
}
