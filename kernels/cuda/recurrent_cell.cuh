// One hidden unit of an LSTM or a GRU at one step, forwards and backwards. `CELL` names the struct
// that a kernel is compiled for; all that differs between the two lies here.
//
// a[k] and b[k] are the two halves of gate k's argument, each with its bias:
//   a = weight_ih x + bias_ih,   b = weight_hh h + bias_hh
//
// forward   turns them into gates[k], and returns h'. `kept` is what the backward pass needs
//           besides: an LSTM's cell (on entry the one before), a GRU's b_n.
// backward  turns the gradient of h' into grad_a and grad_b, and returns what of it goes straight
//           to h, past the weights. `before` is c before the step for an LSTM (`grad_c` goes on
//           from c' to c), h before the step for a GRU.
#pragma once

__device__ __forceinline__ REAL sigmoid(REAL x) { return REAL(1) / (REAL(1) + exp(-x)); }

// (i, f, g, o) = (σ, σ, tanh, σ)(a + b);  c' = f c + i g;  h' = o tanh(c')
struct Lstm {
    static constexpr int GATES = 4;

    static __device__ __forceinline__ REAL forward(
        const REAL* a, const REAL* b, REAL /*h*/, REAL& kept, REAL* gates)
    {
        const REAL i = gates[0] = sigmoid(a[0] + b[0]);
        const REAL f = gates[1] = sigmoid(a[1] + b[1]);
        const REAL g = gates[2] = tanh(a[2] + b[2]);
        const REAL o = gates[3] = sigmoid(a[3] + b[3]);
        kept = f * kept + i * g;
        return o * tanh(kept);
    }

    static __device__ __forceinline__ REAL backward(
        REAL grad_h, REAL& grad_c, const REAL* gates, REAL kept, REAL before,
        REAL* grad_a, REAL* grad_b)
    {
        const REAL i = gates[0], f = gates[1], g = gates[2], o = gates[3];
        const REAL tanh_c = tanh(kept);
        grad_c += grad_h * o * (1 - tanh_c * tanh_c);
        grad_a[0] = grad_b[0] = grad_c * g * i * (1 - i);
        grad_a[1] = grad_b[1] = grad_c * before * f * (1 - f);
        grad_a[2] = grad_b[2] = grad_c * i * (1 - g * g);
        grad_a[3] = grad_b[3] = grad_h * tanh_c * o * (1 - o);
        grad_c *= f;
        return 0;
    }
};

// r = σ(a_r + b_r);  z = σ(a_z + b_z);  n = tanh(a_n + r b_n);  h' = (1 - z) n + z h
struct Gru {
    static constexpr int GATES = 3;

    static __device__ __forceinline__ REAL forward(
        const REAL* a, const REAL* b, REAL h, REAL& kept, REAL* gates)
    {
        const REAL r = gates[0] = sigmoid(a[0] + b[0]);
        const REAL z = gates[1] = sigmoid(a[1] + b[1]);
        const REAL n = gates[2] = tanh(a[2] + r * b[2]);
        kept = b[2];
        return (1 - z) * n + z * h;
    }

    static __device__ __forceinline__ REAL backward(
        REAL grad_h, REAL& /*grad_c*/, const REAL* gates, REAL kept, REAL before,
        REAL* grad_a, REAL* grad_b)
    {
        const REAL r = gates[0], z = gates[1], n = gates[2];
        const REAL grad_n = grad_h * (1 - z) * (1 - n * n);
        grad_a[0] = grad_b[0] = grad_n * kept * r * (1 - r);
        grad_a[1] = grad_b[1] = grad_h * (before - n) * z * (1 - z);
        grad_a[2] = grad_n;
        grad_b[2] = grad_n * r;
        return grad_h * z;
    }
};
