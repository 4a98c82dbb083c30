// CUDA's vector types, with its alignments: a misaligned float4 is an error here as it is there.
#pragma once

#define EMULATOR_VECTOR2(name, type, alignment)                          \
    struct alignas(alignment) name##2 {                                  \
        type x, y;                                                       \
    };                                                                   \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }
#define EMULATOR_VECTOR3(name, type)                                     \
    struct name##3 {                                                     \
        type x, y, z;                                                    \
    };                                                                   \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }
#define EMULATOR_VECTOR4(name, type, alignment)                          \
    struct alignas(alignment) name##4 {                                  \
        type x, y, z, w;                                                 \
    };                                                                   \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

EMULATOR_VECTOR2(char, signed char, 2)
EMULATOR_VECTOR3(char, signed char)
EMULATOR_VECTOR4(char, signed char, 4)
EMULATOR_VECTOR2(uchar, unsigned char, 2)
EMULATOR_VECTOR3(uchar, unsigned char)
EMULATOR_VECTOR4(uchar, unsigned char, 4)
EMULATOR_VECTOR2(short, short, 4)
EMULATOR_VECTOR3(short, short)
EMULATOR_VECTOR4(short, short, 8)
EMULATOR_VECTOR2(ushort, unsigned short, 4)
EMULATOR_VECTOR3(ushort, unsigned short)
EMULATOR_VECTOR4(ushort, unsigned short, 8)
EMULATOR_VECTOR2(int, int, 8)
EMULATOR_VECTOR3(int, int)
EMULATOR_VECTOR4(int, int, 16)
EMULATOR_VECTOR2(uint, unsigned, 8)
EMULATOR_VECTOR3(uint, unsigned)
EMULATOR_VECTOR4(uint, unsigned, 16)
EMULATOR_VECTOR2(float, float, 8)
EMULATOR_VECTOR3(float, float)
EMULATOR_VECTOR4(float, float, 16)
EMULATOR_VECTOR2(longlong, long long, 16)
EMULATOR_VECTOR3(longlong, long long)
EMULATOR_VECTOR4(longlong, long long, 16)
EMULATOR_VECTOR2(ulonglong, unsigned long long, 16)
EMULATOR_VECTOR3(ulonglong, unsigned long long)
EMULATOR_VECTOR4(ulonglong, unsigned long long, 16)
EMULATOR_VECTOR2(double, double, 16)
EMULATOR_VECTOR3(double, double)
EMULATOR_VECTOR4(double, double, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
