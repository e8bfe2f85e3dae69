// Every product of blocks, on random ones: what llama/scales.c looks up, and what upstream converts. The one argument is a
// seed. Says how many products there are, and which differ.
#include "ggml-cpu.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENTS 512
#define ROW 4096 // bytes, more than any type takes for so many

typedef void product(int n, float * s, size_t bs, const void * x, size_t bx, const void * y, size_t by, int nrc);

#define CHOOSE(name) product name, table_##name;
#include "choose.h"
#undef CHOOSE

static const struct {
    const char * name;
    product *converted, *looked_up;
} PRODUCTS[] = {
#define CHOOSE(name) {#name, name, table_##name},
#include "choose.h"
};

int main(int argc, char ** argv) {
    static uint8_t x[2 * ROW], y[2 * ROW];
    ggml_cpu_init();
    srand(argc > 1 ? atoi(argv[1]) : 1);
    int count = sizeof PRODUCTS / sizeof *PRODUCTS;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 2 * ROW; i++) {
            x[i] = rand();
            y[i] = rand();
        }
        for (int i = 0; i < count; i++) {
            for (int rows = 1; rows <= 1 + ggml_cpu_has_matmul_int8(); rows++) {
                float sums[2][4] = {{0}};
                PRODUCTS[i].converted(ELEMENTS, sums[0], 2, x, ROW, y, ROW, rows);
                PRODUCTS[i].looked_up(ELEMENTS, sums[1], 2, x, ROW, y, ROW, rows);
                for (int k = 0; k < 4; k++) {
                    bool same = memcmp(&sums[0][k], &sums[1][k], sizeof(float)) == 0; // but one NaN is as good as another
                    if (!same && !(isnan(sums[0][k]) && isnan(sums[1][k]))) printf("%s differs\n", PRODUCTS[i].name);
                }
            }
        }
    }
    printf("%d\n", count);
}
