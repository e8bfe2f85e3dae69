// Tokens are evaluated in portions that the processor is quick with, by way of the linker (--wrap), as in loading.cpp. It
// saves a quarter of the instructions from llama-cli's start to four tokens of an answer (SmolLM2-135M with i8mm, emulated:
// 2,960 million, and 3,945 without it).
//
// With Arm's i8mm ggml multiplies two rows by two tokens at once, where there are pairs only, and it shares out 16 tokens at
// a time (ggml_compute_forward_mul_mat() in ggml-cpu.c). Upstream takes a question as it comes, and most numbers of tokens go
// the slow way: 13 take as long as 20.
#include "ggml-cpu.h"
#include "llama-batch.h"

#include <algorithm>

#define SHARE 16u

// llama_ubatch llama_batch_allocr::split_simple(uint32_t) of src/llama-batch.h: the next tokens of a batch, at most so many
#define SPLIT "_ZN18llama_batch_allocr12split_simpleEj"
llama_ubatch upstream_split(llama_batch_allocr * batch, uint32_t most) __asm__("__real_" SPLIT);
llama_ubatch paired_split(llama_batch_allocr * batch, uint32_t most) __asm__("__wrap_" SPLIT);

// Whole shares, then the other pairs, then the odd one.
llama_ubatch paired_split(llama_batch_allocr * batch, uint32_t most) {
    static const bool pairs = ggml_cpu_has_matmul_int8() != 0;
    uint32_t left = batch->get_n_tokens() - batch->get_n_used();
    bool whole = most == batch->get_n_tokens(); // for an encoder all has to be one
    if (pairs && !whole && left > 1) {
        most = std::min(most, left >= SHARE ? left / SHARE * SHARE : left / 2 * 2);
    }
    return upstream_split(batch, most);
}
