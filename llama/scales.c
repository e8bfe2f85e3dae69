// Products of quantised blocks whose scales are looked up instead of converted, by way of the linker (--wrap), as in
// loading.cpp: the same numbers to the last bit.
//
// A block's scales are half-precision numbers. A processor converts one in an instruction, which is what upstream compiles;
// an emulated one calls a function for it, and spends a third of an answer there. ggml has a table of all of them. So its own
// file of these products is compiled a second time here, with the table, and the quicker way is chosen when the program starts.
// It makes an emulated processor generate 1.4 times as fast (docs/benchmarks.md, "Speed").
#include "ggml-cpu.h"
#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define ROUNDS 8
#define CONVERSIONS 4096 // some hundred ticks of a slow clock, with a processor of today

static void convert(const volatile uint16_t * numbers) {
    for (int i = 0; i < CONVERSIONS; i++) {
        volatile float number = GGML_CPU_FP16_TO_FP32(numbers[i]);
        (void) number;
    }
}

#undef GGML_CPU_FP16_TO_FP32
#define GGML_CPU_FP16_TO_FP32(number) ggml_table_f32_f16[number]

static void look_up(const volatile uint16_t * numbers) {
    for (int i = 0; i < CONVERSIONS; i++) {
        volatile float number = GGML_CPU_FP16_TO_FP32(numbers[i]);
        (void) number;
    }
}

#include PRODUCTS // upstream's, with each of its functions named otherwise

static int64_t least_time(void (* way)(const volatile uint16_t *)) { // ns
    uint16_t numbers[CONVERSIONS];
    for (int i = 0; i < CONVERSIONS; i++) {
        numbers[i] = 0x1400 + i; // 0.001 and more, as scales are
    }
    int64_t least = INT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        way(numbers);
        clock_gettime(CLOCK_MONOTONIC, &end);
        int64_t time = (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec;
        least = time < least ? time : least;
    }
    return least;
}

static bool by_table;

__attribute__((constructor)) static void choose(void) { // before there are threads
    by_table = 2 * least_time(look_up) < least_time(convert); // a processor's own conversion keeps up, or nearly
}

#define CHOOSE(name)                                                                                                       \
    void __real_##name(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);        \
    void __wrap_##name(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);        \
    void __wrap_##name(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc) {       \
        (by_table ? name : __real_##name)(n, s, bs, x, bx, y, by, nrc);                                                    \
    }
#include "choose.h"
