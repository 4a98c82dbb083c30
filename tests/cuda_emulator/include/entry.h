// How a kernel is called with a table of pointers to its arguments, and described to Python.
#pragma once

namespace emulator {

template <unsigned... I>
struct Indices {};

template <typename T>
struct Plain {
    using type = T;
};
template <typename T>
struct Plain<const T> {
    using type = T;
};

template <typename... P, unsigned... I>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(P...), void** arguments,
                                                 Indices<I...>) {
    kernel(*(typename Plain<P>::type*)arguments[I]...);
}

template <typename... P>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(P...), void** arguments) {
    call(kernel, arguments, Indices<__integer_pack(sizeof...(P))...>{});
}

constexpr int first(int threads, ...) { return threads; }  // of __launch_bounds__(threads, ...)

template <typename T>
const char* spell() {
    return __PRETTY_FUNCTION__;
}

struct Parameter {
    const char* type;  // "... [with T = <the type>]"
    unsigned long size;
    bool is_struct;
};

// Fills a table of one more entry than there are parameters; the last one has no type.
template <typename... P>
__attribute__((no_sanitize("thread"))) void describe(void (*)(P...), Parameter* out) {
    const Parameter table[] = {{spell<P>(), sizeof(P), __is_class(P)}..., {nullptr, 0, false}};
    for (unsigned i = 0; i <= sizeof...(P); ++i) out[i] = table[i];
}

}  // namespace emulator
