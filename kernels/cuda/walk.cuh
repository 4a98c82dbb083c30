// How the threads of a grid share an array that is reduced along some of its axes.
//
// The array is dense memory (B, N, G, S), read in packs of PACK neighbouring values. The axes N
// and S are reduced: each pair (b, g), a group, owns the N·S packs at ((b·N + n)·G + g)·S + s,
// numbered i = n·S + s. So one walk serves
//   (1, M, C, 1)     the columns of a matrix, the channels of channels-last memory,
//   (1, 1, M, D)     the rows of a matrix,
//   (1, N, C, H·W)   the channels of NCHW memory,
//   (B, N, G, 1)     an axis in the middle.
// A block takes `width` neighbouring groups and `chunk` positions of each; `depth` threads share a
// group. Neighbours in memory are neighbours among the threads, so a warp's loads fall together.
// Blocks never talk to each other: each leaves a partial result per group, which a second kernel
// joins in a fixed order. No atomics, so equal inputs give equal bits.
//
// PACK is 1 for any size, or 4 (one 16-byte load in float) where S, or G if S = 1, is a multiple
// of 4 and the addresses are multiples of 16; with S = 1 a pack's values belong to 4 groups.
#pragma once

constexpr int THREADS = 256;  // of a block

// Packs that a thread has on their way from memory at once: 64 bytes, so that a quarter of the
// threads that an SM can hold cover the latency of its share of the bandwidth.
constexpr int UNROLL = sizeof(REAL) == 4 ? 4 : 2;

struct Walk {            // in packs; walk.py chooses the numbers
    long long groups;    // G
    long long inner;     // S
    long long positions; // N·S
    long long chunk;     // positions of a group that one block takes
    long long chunks;    // blocks that share a group
    long long spans;     // blocks that share the groups of one b
    long long width;     // groups of a block
    long long depth;     // threads of a group
    long long across;    // 1: a pack belongs to PACK groups, 0: to one
};

template <typename T>
struct alignas(sizeof(T) * PACK < 16 ? sizeof(T) * PACK : 16) Pack {
    T at[PACK];
};

template <typename T>
__device__ __forceinline__ Pack<T> load(const T* array, long long offset) {
    return reinterpret_cast<const Pack<T>*>(array)[offset];
}

template <typename T>
__device__ __forceinline__ void store(T* array, long long offset, const Pack<T>& pack) {
    reinterpret_cast<Pack<T>*>(array)[offset] = pack;
}

// One thread's way through its group: positions first, first + depth, ... of the block's chunk.
// The offset follows by additions alone; the one division is done at the start.
struct Path {
    bool active;       // there is such a group
    int rank;          // of the group's threads; `depth` for a thread left over
    int apart;         // threads between two ranks
    long long group;   // b·G + g
    long long chunk;   // number of the block among those of the group
    long long position;
    long long stop;

    __device__ explicit Path(const Walk& walk) : walk(walk) {
        const int width = walk.width;
        const int depth = walk.depth;
        const int thread = threadIdx.x;
        const bool groups_first = walk.inner == 1;
        const int column = groups_first ? thread % width : thread / depth;
        rank = groups_first ? thread / width : thread % depth;
        apart = groups_first ? width : 1;
        const bool left_over = thread >= width * depth;
        if (left_over) rank = depth;

        const long long g = blockIdx.x % walk.spans * width + column;
        const long long rest = blockIdx.x / walk.spans;
        const long long b = rest / walk.chunks;
        chunk = rest % walk.chunks;
        group = b * walk.groups + g;
        active = !left_over && g < walk.groups;
        position = chunk * walk.chunk + rank;
        stop = active ? min(walk.positions, (chunk + 1) * walk.chunk) : 0;

        const long long n = position / walk.inner;
        s = position - n * walk.inner;
        offset = b * walk.positions * walk.groups + (n * walk.groups + g) * walk.inner + s;
        const long long n_step = depth / walk.inner;
        s_step = depth - n_step * walk.inner;
        offset_step = n_step * walk.groups * walk.inner + s_step;
    }

    // The offsets of the next packs, UNROLL of them while there are as many; returns their number.
    __device__ __forceinline__ int next(long long (&offsets)[UNROLL]) {
        int n = 0;
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            offsets[u] = offset;
            n += position < stop;
            position += walk.depth;
            offset += offset_step;
            s += s_step;
            if (s >= walk.inner) {  // over the end of a run: on to the next n
                s -= walk.inner;
                offset += (walk.groups - 1) * walk.inner;
            }
        }
        return n;
    }

    // The group of a pack's value.
    __device__ __forceinline__ long long group_of(int k) const {
        return walk.across ? group * PACK + k : group;
    }

    // The place, among the values that are reduced, of a pack's value.
    __device__ __forceinline__ long long place_of(long long position, int k) const {
        return walk.across ? position : position * PACK + k;
    }

    // The thread with the group's result after `join`; for a thread without a group, any.
    __device__ __forceinline__ int leader() const {
        return active ? threadIdx.x - rank * apart : 0;
    }

    // Whether this thread writes the group's result after `join`.
    __device__ __forceinline__ bool leads() const { return active && rank == 0; }

   private:
    const Walk& walk;
    long long offset, offset_step;
    long long s, s_step;
};

// Joins the values of each group's threads: scratch[thread of rank 0] holds the result, for all
// threads to read. All threads of the block must call; `op` need not commute.
template <typename T, typename Op>
__device__ __forceinline__ void join(const Walk& walk, const Path& path, const T& value, Op op,
                                     T* scratch) {
    scratch[threadIdx.x] = value;
    int n = walk.depth;
    while (n > 1) {
        const int half = (n + 1) / 2;
        __syncthreads();
        if (path.rank + half < n) {
            const int other = threadIdx.x + half * path.apart;
            scratch[threadIdx.x] = op(scratch[threadIdx.x], scratch[other]);
        }
        n = half;
    }
    __syncthreads();
}
