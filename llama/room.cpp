// How much the context holds, and what goes into it. The server has the model's own tokenizer, so it is asked.
#include "room.h"

#include "console/hot.h"
#include "json.h"

#include <unistd.h>

#include <algorithm>
#include <exception>

using json = common_json;

namespace {

constexpr long ANSWER_ROOM = 256; // tokens that files leave free, as in site_scons/zosia/chat/files/documents.py

json asked_server(cli_context & context, const char * path) {
    try {
        return json::parse(context.client.get(path));
    } catch (const std::exception &) {
        return json::object();
    }
}

// Tokens of a question alone, with all that the template puts around it.
long tokens_asked(cli_context & context, const std::string & question) {
    json messages = json::array();
    if (!context.params.system_prompt.empty()) {
        messages.push_back({{"role", "system"}, {"content", context.params.system_prompt}});
    }
    messages.push_back({{"role", "user"}, {"content", question}});
    json body = {{"messages", messages}};
    return json::parse(context.client.post("/v1/chat/completions/input_tokens", body.dump_safe())).value("input_tokens", 0L);
}

long tokens_in(cli_context & context, const std::string & text) {
    json body = {{"content", text}};
    return static_cast<long>(json::parse(context.client.post("/tokenize", body.dump_safe())).at("tokens").size());
}

} // namespace

long context_size(cli_context & context) {
    static long known = 0;
    if (known == 0) {
        json props = asked_server(context, "/props"), nothing = json::object();
        known = props.value("default_generation_settings", nothing).value("n_ctx", 0L);
    }
    return known;
}

long largest(cli_context & context) {
    json models = asked_server(context, "/v1/models");
    if (!models.contains("data") || models.at("data").empty()) return 0;
    const json & model = models.at("data").at(0);
    return model.contains("meta") && model.at("meta").is_object() ? model.at("meta").value("n_ctx_train", 0L) : 0;
}

std::string context_for(cli_context & context, long tokens) {
    long wanted = (tokens * 5 / 4 + 255) / 256 * 256, most = largest(context); // llama.cpp takes multiples of 256
    return "CTX=" + std::to_string(most > 0 ? std::min(wanted, most) : wanted);
}

// /init finds the line in the log, and makes its message of it.
int fails(int status, const std::string & why, const std::string & remedy) {
    std::string line = "zosia: " + why + ". " + remedy + "\n";
    (void) !write(STDERR_FILENO, line.data(), line.size());
    console::end_with(status);
    return status;
}

// One file is held at a time, beside those that are taken. As documents.fit() does it for the chat program.
std::string with_files(
    cli_context & context, const std::string & question, size_t count, const std::function<std::string()> & next) {
    long used = 0, room = 0, least = 0;
    bool counts = true;
    std::string taken;
    for (size_t number = 0; number < count; number++) {
        std::string text = next() + "\n\n";
        if (!counts) continue; // the host sends it in any case
        try {
            if (number == 0) {
                used = tokens_asked(context, question) + ANSWER_ROOM;
                room = std::max(0L, context_size(context) - used);
                counts = used - ANSWER_ROOM < context_size(context); // else it is refused without them, too
                if (!counts) continue;
            }
            long tokens = tokens_in(context, text);
            if (tokens <= room) {
                room -= tokens;
                taken += text;
                continue;
            }
            least = least == 0 ? tokens : std::min(least, tokens);
            console::tell("left " + std::to_string(number) + " " + std::to_string(tokens) + "\n");
        } catch (const std::exception &) { // a template that can't be applied, say: the question will have the same error
            counts = false;
        }
    }
    if (!taken.empty() || !counts) return taken + question;
    std::string which = count == 1 ? "its file has no" : "none of its " + std::to_string(count) + " files has";
    std::string takes = count == 1 ? "it takes " : "the smallest takes ";
    long most = largest(context);
    std::string remedy = most > 0 && used + least >= most
        ? "Name a smaller file: the model's largest context has " + std::to_string(most)
        : "Set " + context_for(context, used + least) + ", or name a smaller file";
    std::string left = std::to_string(room);
    fails(TOO_LONG, which + " room: " + takes + std::to_string(least) + " tokens, and there are " + left + " left", remedy);
    return "";
}
