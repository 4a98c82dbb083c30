// Random numbers: element i of a draw is made of word i mod 4 of Philox block offset + ⌊i / 4⌋.
//
//   bits        the words                                     4 bytes written per element
//   uniform     low + (high - low) u, u on a grid in [0, 1)   4 (double: 8)
//   normal      mean + std √(-2 log u) (cos, sin)(2π t)       4 (double: 8)
//   bernoulli   [u < p]                                       4 (double: 8), and p's if an array
//
// A block costs 10 rounds of 2 wide products: some 100 integer operations for 4 words (double
// precision takes a second block, plane 1, for the words' lower halves). A normal pair adds a
// logarithm, a root, a sine and a cosine. That is about 40 operations per float32 normal and
// 30 per uniform number, for 4 bytes: near the balance of a GPU, memory and arithmetic both busy.
//
// Versions:
//   normal_plain   a thread per element. It makes all four words, throws two away and, since sine
//                  and cosine come together, one of the two numbers as well.
//   normal, ...    a thread per block: every word is used once, 16 bytes are written at a time.
//
// The numbers are those of the reference, bit for bit; only logarithm, sine and cosine may differ
// in their last digits. Products and sums are not contracted to a multiply-add, which would round
// once where the reference rounds twice. CuPy's -ftz=true makes subnormal results 0.
//
// `counter`, if not null, is read when the kernel runs and added to `offset`: a recorded graph
// advances it on the device and draws new numbers at every replay.

#include "for_each.cuh"
#include "philox.cuh"

template <typename T>
using Four = Vector<T, 4>;  // what one thread makes

__device__ __forceinline__ unsigned long long first_block(unsigned long long offset,
                                                          const unsigned long long* counter) {
    return counter == nullptr ? offset : offset + *counter;  // modulo 2⁶⁴
}

// out[4b], ..., out[4b + 3] = make(b) for all b, as far as there are elements.
template <typename T, typename Make>
__device__ __forceinline__ void draw(T* out, long long n, bool aligned, const Make& make) {
    const long long thread = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    const long long threads = gridDim.x * static_cast<long long>(blockDim.x);
    for (long long i = 4 * thread; i < n; i += 4 * threads) {
        const Four<T> four = make(i / 4);
        if (aligned && n - i >= 4) {
#pragma unroll
            for (int k = 0; k < 4; k += WIDTH<T>) {
                Vector<T, WIDTH<T>> part;
#pragma unroll
                for (int w = 0; w < WIDTH<T>; ++w) part.at[w] = four.at[k + w];
                store(out + i + k, part);
            }
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (i + k < n) out[i + k] = four.at[k];
        }
    }
}

// The leading 53 of a word's 32 bits and 32 more.
__device__ __forceinline__ double wide(unsigned word, unsigned more) {
    return static_cast<double>((static_cast<unsigned long long>(word) << 21) | (more >> 11));
}

__device__ __forceinline__ float unit(unsigned word) { return (word >> 8) * 0x1p-24f; }

__device__ __forceinline__ void uniform_four(unsigned long long seed, unsigned long long block,
                                             Four<float>& u) {
    const Words words = philox(seed, block, 0);
#pragma unroll
    for (int k = 0; k < 4; ++k) u.at[k] = unit(words.at[k]);
}

__device__ __forceinline__ void uniform_four(unsigned long long seed, unsigned long long block,
                                             Four<double>& u) {
    const Words words = philox(seed, block, 0), more = philox(seed, block, 1);
#pragma unroll
    for (int k = 0; k < 4; ++k) u.at[k] = wide(words.at[k], more.at[k]) * 0x1p-53;
}

__device__ __forceinline__ float scaled(float low, float span, float u) {
    return __fadd_rn(low, __fmul_rn(span, u));
}

__device__ __forceinline__ double scaled(double low, double span, double u) {
    return __dadd_rn(low, __dmul_rn(span, u));
}

// Box and Muller's pair of two words: the first gives the radius, the second the angle.
__device__ __forceinline__ void box_muller(unsigned radius_word, unsigned turn_word, float& z0,
                                           float& z1) {
    const float u = __fadd_rn(static_cast<float>(radius_word) * 0x1p-32f, 0x1p-33f);
    const float radius = sqrtf(-2 * logf(u));
    // The nearest quarter turn is taken off as an integer: what is left, within an eighth of a
    // turn, keeps all its bits as a float, and a sine near 0 its relative precision.
    const unsigned quarter = (turn_word + (1u << 29)) >> 30;
    const int rest = static_cast<int>(turn_word - (quarter << 30));
    float sine, cosine;
    sincospif(rest * 0x1p-31f, &sine, &cosine);
    const float x = quarter & 1 ? -sine : cosine;
    const float y = quarter & 1 ? cosine : sine;
    z0 = radius * (quarter & 2 ? -x : x);
    z1 = radius * (quarter & 2 ? -y : y);
}

__device__ __forceinline__ void box_muller(double radius_bits, double turn_bits, double& z0,
                                           double& z1) {
    const double radius = sqrt(-2 * log((radius_bits + 0.5) * 0x1p-53));
    double sine, cosine;
    sincospi(turn_bits * 0x1p-52, &sine, &cosine);
    z0 = radius * cosine;
    z1 = radius * sine;
}

__device__ __forceinline__ void normal_four(unsigned long long seed, unsigned long long block,
                                            Four<float>& z) {
    const Words words = philox(seed, block, 0);
    box_muller(words.at[0], words.at[1], z.at[0], z.at[1]);
    box_muller(words.at[2], words.at[3], z.at[2], z.at[3]);
}

__device__ __forceinline__ void normal_four(unsigned long long seed, unsigned long long block,
                                            Four<double>& z) {
    const Words words = philox(seed, block, 0), more = philox(seed, block, 1);
#pragma unroll
    for (int k = 0; k < 4; k += 2)
        box_muller(wide(words.at[k], more.at[k]), wide(words.at[k + 1], more.at[k + 1]), z.at[k],
                   z.at[k + 1]);
}

extern "C" __global__ void bits(unsigned int* out, long long n, bool aligned,
                                unsigned long long seed, unsigned long long offset,
                                const unsigned long long* counter, unsigned int plane) {
    const unsigned long long first = first_block(offset, counter);
    draw(out, n, aligned, [&](long long b) { return philox(seed, first + b, plane); });
}

extern "C" __global__ void uniform(REAL* out, long long n, bool aligned, unsigned long long seed,
                                   unsigned long long offset, const unsigned long long* counter,
                                   REAL low, REAL span) {
    const unsigned long long first = first_block(offset, counter);
    draw(out, n, aligned, [&](long long b) {
        Four<REAL> u;
        uniform_four(seed, first + b, u);
#pragma unroll
        for (int k = 0; k < 4; ++k) u.at[k] = scaled(low, span, u.at[k]);
        return u;
    });
}

extern "C" __global__ void normal_plain(REAL* out, long long n, unsigned long long seed,
                                        unsigned long long offset,
                                        const unsigned long long* counter, REAL mean, REAL std) {
    const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
    if (i >= n) return;
    Four<REAL> z;
    normal_four(seed, first_block(offset, counter) + i / 4, z);
    const REAL left = i & 1 ? z.at[1] : z.at[0];
    const REAL right = i & 1 ? z.at[3] : z.at[2];
    out[i] = mean + std * (i & 2 ? right : left);
}

extern "C" __global__ void normal(REAL* out, long long n, bool aligned, unsigned long long seed,
                                  unsigned long long offset, const unsigned long long* counter,
                                  REAL mean, REAL std) {
    const unsigned long long first = first_block(offset, counter);
    draw(out, n, aligned, [&](long long b) {
        Four<REAL> z;
        normal_four(seed, first + b, z);
#pragma unroll
        for (int k = 0; k < 4; ++k) z.at[k] = mean + std * z.at[k];
        return z;
    });
}

// The float32 number decides whatever the precision of the result. `p` is null where all elements
// have `same_p`; as a double it compares exactly with float32 and float64 alike.
extern "C" __global__ void bernoulli(REAL* out, long long n, bool aligned, unsigned long long seed,
                                     unsigned long long offset, const unsigned long long* counter,
                                     const REAL* p, double same_p) {
    const unsigned long long first = first_block(offset, counter);
    draw(out, n, aligned, [&](long long b) {
        const Words words = philox(seed, first + b, 0);
        Four<REAL> kept;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const double limit = p != nullptr && 4 * b + k < n ? p[4 * b + k] : same_p;
            kept.at[k] = unit(words.at[k]) < limit ? 1 : 0;
        }
        return kept;
    });
}
