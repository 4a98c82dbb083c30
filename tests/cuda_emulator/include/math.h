// Mathematics: the C library's functions under CUDA's names. Fast variants (__expf) are the exact
// ones here, so tolerances have to come from what the GPU's documentation promises.
#pragma once

// name(double), namef(float), and name(float) as CUDA has it in C++.
#define EMULATOR_FUNCTION1(name)                                           \
    extern "C" double name(double);                                        \
    extern "C" float name##f(float);                                       \
    __forceinline__ float name(float x) { return __builtin_##name##f(x); }
#define EMULATOR_FUNCTION2(name)                                                       \
    extern "C" double name(double, double);                                            \
    extern "C" float name##f(float, float);                                            \
    __forceinline__ float name(float x, float y) { return __builtin_##name##f(x, y); }

#pragma GCC visibility push(default)
EMULATOR_FUNCTION1(sqrt)
EMULATOR_FUNCTION1(exp)
EMULATOR_FUNCTION1(exp2)
EMULATOR_FUNCTION1(expm1)
EMULATOR_FUNCTION1(log)
EMULATOR_FUNCTION1(log2)
EMULATOR_FUNCTION1(log10)
EMULATOR_FUNCTION1(log1p)
EMULATOR_FUNCTION1(sin)
EMULATOR_FUNCTION1(cos)
EMULATOR_FUNCTION1(tan)
EMULATOR_FUNCTION1(asin)
EMULATOR_FUNCTION1(acos)
EMULATOR_FUNCTION1(atan)
EMULATOR_FUNCTION1(sinh)
EMULATOR_FUNCTION1(cosh)
EMULATOR_FUNCTION1(tanh)
EMULATOR_FUNCTION1(asinh)
EMULATOR_FUNCTION1(acosh)
EMULATOR_FUNCTION1(atanh)
EMULATOR_FUNCTION1(erf)
EMULATOR_FUNCTION1(erfc)
EMULATOR_FUNCTION1(cbrt)
EMULATOR_FUNCTION1(ceil)
EMULATOR_FUNCTION1(floor)
EMULATOR_FUNCTION1(trunc)
EMULATOR_FUNCTION1(round)
EMULATOR_FUNCTION1(rint)
EMULATOR_FUNCTION1(nearbyint)
EMULATOR_FUNCTION1(fabs)
EMULATOR_FUNCTION1(tgamma)
EMULATOR_FUNCTION1(lgamma)
EMULATOR_FUNCTION2(pow)
EMULATOR_FUNCTION2(atan2)
EMULATOR_FUNCTION2(fmod)
EMULATOR_FUNCTION2(remainder)
EMULATOR_FUNCTION2(hypot)
EMULATOR_FUNCTION2(copysign)
EMULATOR_FUNCTION2(fmin)
EMULATOR_FUNCTION2(fmax)
EMULATOR_FUNCTION2(fdim)
EMULATOR_FUNCTION2(nextafter)

extern "C" {
double fma(double, double, double);
float fmaf(float, float, float);
double ldexp(double, int);
float ldexpf(float, int);
void sincos(double, double*, double*);
void sincosf(float, float*, float*);
long long llrint(double);
long long llrintf(float);
}
#pragma GCC visibility pop

inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
inline float ldexp(float x, int exponent) { return ldexpf(x, exponent); }
inline float abs(float x) { return fabsf(x); }
inline double abs(double x) { return fabs(x); }

inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin((double)a, b); }
inline double max(float a, double b) { return fmax((double)a, b); }
inline double min(double a, float b) { return fmin(a, (double)b); }
inline double max(double a, float b) { return fmax(a, (double)b); }

#define EMULATOR_CLASSIFY(name)                                        \
    constexpr bool name(float x) { return __builtin_##name(x); }       \
    constexpr bool name(double x) { return __builtin_##name(x); }
EMULATOR_CLASSIFY(isnan)
EMULATOR_CLASSIFY(isinf)
EMULATOR_CLASSIFY(isfinite)
EMULATOR_CLASSIFY(signbit)

// sin(pi x) and cos(pi x): the period is taken off exactly first.
inline double sinpi(double x) { return sin(3.14159265358979323846 * remainder(x, 2.0)); }
inline double cospi(double x) { return cos(3.14159265358979323846 * remainder(x, 2.0)); }
inline float sinpif(float x) { return (float)sinpi((double)x); }
inline float cospif(float x) { return (float)cospi((double)x); }
inline void sincospi(double x, double* s, double* c) {
    *s = sinpi(x);
    *c = cospi(x);
}
inline void sincospif(float x, float* s, float* c) {
    *s = sinpif(x);
    *c = cospif(x);
}

inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float rcbrtf(float x) { return (float)(1.0 / cbrt((double)x)); }
inline double rcbrt(double x) { return 1.0 / cbrt(x); }
inline float exp10f(float x) { return (float)pow(10.0, (double)x); }
inline double exp10(double x) { return pow(10.0, x); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline float normcdff(float x) { return (float)normcdf((double)x); }
inline float fdividef(float x, float y) { return x / y; }
inline float saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

// Intrinsics: fast ones, and ones that name their rounding. Only to nearest is offered, which is
// how this machine rounds.
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline void __sincosf(float x, float* s, float* c) { sincosf(x, s, c); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return saturatef(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __dsqrt_rn(double x) { return sqrt(x); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Conversions round as their suffix says: to nearest even, or towards zero, down, up. Values that
// don't fit end at the nearest that does; NaN becomes 0.
namespace emulator {

template <typename To>
inline To saturate(double x, double low, double high) {
    if (x != x) return 0;
    return x <= low ? (To)low : x >= high ? (To)high : (To)x;
}
inline int to_int(double x) { return saturate<int>(x, -2147483648.0, 2147483647.0); }
inline unsigned to_unsigned(double x) { return saturate<unsigned>(x, 0.0, 4294967295.0); }

}  // namespace emulator

inline int __float2int_rn(float x) { return emulator::to_int(rintf(x)); }
inline int __float2int_rz(float x) { return emulator::to_int(truncf(x)); }
inline int __float2int_rd(float x) { return emulator::to_int(floorf(x)); }
inline int __float2int_ru(float x) { return emulator::to_int(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return emulator::to_unsigned(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return emulator::to_unsigned(truncf(x)); }
inline unsigned __float2uint_rd(float x) { return emulator::to_unsigned(floorf(x)); }
inline int __double2int_rn(double x) { return emulator::to_int(rint(x)); }
inline int __double2int_rz(double x) { return emulator::to_int(trunc(x)); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ull2double_rn(unsigned long long x) { return (double)x; }
inline float __double2float_rn(double x) { return (float)x; }
