// The order of a two-dimensional scan, as kernels/wavefront.py explains it: lines that take a
// pixel in each step, the next line `delay` (0 or 1) steps later, and windows of `taps` lines from
// line - reach on.
#pragma once

struct Wavefront {
    int lines, length, delay, taps, reach, origin, step, line;

    __device__ int pixels() const { return lines * length; }

    __device__ int steps() const { return pixels() ? length + delay * (lines - 1) : 0; }

    __device__ int pixel(int t, int b) const { return origin + t * step + b * line; }

    // How many pixels line b has taken before step t: negative if its turn comes later.
    __device__ int taken(int t, int b) const { return t - delay * b; }

    __device__ bool active(int t, int b) const
    {
        return 0 <= b && b < lines && 0 <= taken(t, b) && taken(t, b) < length;
    }

    // The first active line of step t, and the one after the last. 0 <= t < steps().
    __device__ int begin(int t) const { return delay ? max(0, t - length + 1) : 0; }

    __device__ int end(int t) const { return delay ? min(lines, t + 1) : lines; }
};
