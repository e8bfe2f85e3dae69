"""Values of llama.cpp's options that a user chooses from."""

CACHE_TYPES = ("f16", "q8_0", "q4_0")  # of the KV cache, each about half of the one before
REASONING = ("off", "on", "low", "medium", "high")  # efforts

# llama-cli's arguments that zosia sets itself, and the variable for each.
RESERVED_ARGS = {
    **dict.fromkeys(("-lm", "--load-mode", "--repack", "-nr", "--no-repack"), "WEIGHTS"),
    **dict.fromkeys(("-c", "--ctx-size"), "CTX"),
    **dict.fromkeys(("-ctk", "--cache-type-k", "-ctv", "--cache-type-v"), "KV"),
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"), "MODEL"),
    "--rpc": "WORKERS",
    **dict.fromkeys(("-p", "--prompt", "-f", "--file", "-st", "--single-turn"), "PROMPT"),
    **dict.fromkeys(("-sys", "--system-prompt", "-sysf", "--system-prompt-file"), "SYSTEM"),
}
# llama-server's arguments that a machine that serves can't have, and what to do instead.
SERVER_ARGS = {
    **dict.fromkeys(("-np", "--parallel"), "Set PARALLEL= instead"),
    "--host": "Set HOST= instead",
    **dict.fromkeys(("--port", "--reuse-port"), "Set PORT= instead"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "Set KEY= instead"),
    **dict.fromkeys(("--path", "--ui", "--webui", "--no-ui", "--no-webui"), "Set UI= instead"),
    "--sleep-idle-seconds": "Set IDLE= instead",
    "--log-file": "Set LOG= instead",
    **dict.fromkeys(
        (
            *("--api-prefix", "--ssl-key-file", "--ssl-cert-file", "--cors-origins", "--cors-methods"),
            *("--cors-headers", "--cors-credentials", "--no-cors-credentials"),
        ),
        "Leave it out: clients never reach llama-server itself; put a proxy in front of the port",
    ),
    **dict.fromkeys(
        ("--embedding", "--embeddings", "--rerank", "--reranking", "--pooling"),
        "Leave it out: zosia serves models that write text",
    ),
    **dict.fromkeys(
        (
            *("--tools", "--tools-runtime", "-ag", "--agent", "--mcp-servers-config", "--mcp-servers-json"),
            *("--ui-mcp-proxy", "--webui-mcp-proxy", "--slot-save-path", "--media-path"),
            *("--models-dir", "--models-preset", "--models-max", "--models-autoload"),
        ),
        "Leave it out: the guest has no programs, files or network for it",
    ),
}
