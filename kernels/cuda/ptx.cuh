// The instructions that CUDA C++ has no words for: asynchronous copies into shared memory, matrix
// fragments, tensor-core products. Numbers of fragment elements are those of the PTX manual.
//
// TENSOR_CORES says whether the products exist (sm_80 and later). Copies exist everywhere: before
// sm_80 they are plain loads and stores, and waiting does nothing.
#ifndef TINYGEN_PTX_CUH
#define TINYGEN_PTX_CUH

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

#if TENSOR_CORES

// An address as instructions on shared memory take it.
__device__ __forceinline__ unsigned shared_address(const void* pointer)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, both addresses multiples of 16, past the first-level
// cache; zeros, and no access to global memory, where not valid. They have arrived for this thread
// after commit and wait, for others after a barrier on top of that.
//   cp.async.cg.shared.global [shared], [global], 16, source_bytes
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

// The same for 4 bytes, addresses multiples of 4, through the first-level cache.
//   cp.async.ca.shared.global [shared], [global], 4, source_bytes
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(valid ? 4 : 0) : "memory");
}

// Makes a group of this thread's copies since the last commit.
__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most N of this thread's groups, the youngest, are still on their way.
template <int N>
__device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements from shared memory. Lane i gives the address of row i % 8
// of matrix i / 8: 8 elements, 16 bytes, a multiple of 16. In r[m] lane l gets, of matrix m,
//   row l / 4, columns 2 (l % 4) in the low half and 2 (l % 4) + 1 in the high half.
//   ldmatrix.sync.aligned.m8n8.x4.shared.b16
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}

// The same of the transposed matrices: lane l gets
//   column l / 4, rows 2 (l % 4) in the low half and 2 (l % 4) + 1 in the high half.
//   ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
}

// D += A B for A (16, 8), B (8, 8), D (16, 8). With g = lane / 4 and t = lane % 4 a lane holds
//   a: A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]      TF32, the low 13 bits are not read
//   b: B[t][g], B[t + 4][g]                                    TF32
//   d: D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]  fp32
//   mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4],
                                                 const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// D += A B for A (16, 16), B (16, 8), D (16, 8). A register holds two bf16, the first in its low
// half.
//   a: A[g][2t, 2t + 1], A[g + 8][2t, 2t + 1], A[g][2t + 8, 2t + 9], A[g + 8][2t + 8, 2t + 9]
//   b: B[2t, 2t + 1][g], B[2t + 8, 2t + 9][g]
//   d: as above
// `ldmatrix_x4` of A's quarters (rows 0 and 8 of columns 0, then of columns 8) gives a; of two
// such B that lie transposed in memory, (8, 16) each, it gives both their b.
//   mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The nearest number with TF32's 10 bits of mantissa, halves away from zero.
//   cvt.rna.tf32.f32
__device__ __forceinline__ unsigned to_tf32(float x)
{
    unsigned r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
}

// Two numbers as bf16, the nearest ones, halves to even.
//   cvt.rn.bf16x2.f32 r, high, low
__device__ __forceinline__ unsigned pack_bf16(float low, float high)
{
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

#else

__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true)
{
    *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global)
                                         : make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true)
{
    *static_cast<unsigned*>(shared) = valid ? *static_cast<const unsigned*>(global) : 0;
}

__device__ __forceinline__ void cp_async_commit() {}

template <int N>
__device__ __forceinline__ void cp_async_wait()
{
}

#endif  // TENSOR_CORES
#endif  // TINYGEN_PTX_CUH
