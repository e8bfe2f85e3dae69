// The chat of llama-cli, in place of upstream's cli_context::run(): hot.cpp calls it. Upstream takes "/exit strategies?" for
// a command; it keeps a message that the context has no room for, so that all later ones fail (llama.cpp#17284); and it ends
// an answer that was cut off as any other.
#include "talk.h"

#include "cli-ui.h"
#include "console/hot.h"
#include "json.h"
#include "room.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace {

using json = common_json;

constexpr double NEARLY_FULL = 0.8; // of the context
constexpr size_t MOST_FILES = 100;  // for /glob

// ---- Commands

struct command {
    const char *name, *argument, *does;
};

constexpr command COMMANDS[] = {
    {"/clear", "", "forget the chat"},
    {"/exit", "", "power off; so does Ctrl+C or Ctrl+D on an empty line"},
    {"/glob", "PATTERN", "put text files of the guest before the next question"},
    {"/help", "", "list these commands"},
    {"/read", "FILE", "put a text file of the guest before the next question"},
    {"/regen", "", "answer the last question again"},
};

// The command that a line is: the bare word, or a word that takes an argument with one. nullptr: a question.
const command * command_in(const std::string & line, std::string & argument) {
    std::string word = line.substr(0, line.find_first_of(" \t\n"));
    argument = string_strip(line.substr(word.size()));
    for (const command & each : COMMANDS) {
        if (word == each.name && (argument.empty() || each.argument[0] != '\0')) return &each;
    }
    return nullptr;
}

// A word that may have been meant as a command; a path, say, has other characters.
bool like_command(const std::string & line) {
    return line.size() > 1 && line[0] == '/' &&
        line.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_", 1) == std::string::npos;
}

std::vector<std::pair<std::string, size_t>> completions(std::string_view line, size_t cursor) {
    if (line.find(' ') != std::string_view::npos) return auto_completion_callback(line, cursor); // paths
    std::vector<std::pair<std::string, size_t>> found;
    for (const command & each : COMMANDS) {
        std::string whole = std::string(each.name) + (each.argument[0] != '\0' ? " " : "");
        if (line.size() > 1 && whole.compare(0, line.size(), line) == 0) {
            found.emplace_back(whole, whole.size());
        }
    }
    return found;
}

void help() {
    for (const command & each : COMMANDS) {
        ui::show_message(string_format("%-15s %s", (std::string(each.name) + " " + each.argument).c_str(), each.does));
    }
    ui::show_message("Anything else is a question. A blank before it makes a command one, too.");
}

// ---- The chat

struct answer {
    std::string reasoning, content;
    std::string finish;                  // why it ended, as the server says it; "" where it did not end by itself
    std::string refusal;                 // the server's error, in JSON or as text
    double prompt_speed = 0, speed = 0;  // tokens per second
    long used = 0, written = 0;          // tokens in the context, and those of them that are the answer's
};

class conversation {
  public:
    conversation(cli_context & context, const std::string & sampling) : context(context), sampling(sampling) { forget(); }

    int run() {
        console::set_completion_callback(completions);
        int status = 0;
        bool ended = false;
        while (!ended) {
            std::string text = input();
            bool stopped = cli_context::interrupted().exchange(false);
            if (text.empty() || (stopped && context.params.single_turn)) break; // an empty one is the end of the input
            if (stopped) { // by Ctrl+C just behind Enter
                files.clear();
                continue;
            }
            if (text.back() == '\n') {
                text.pop_back();
            }
            if (text.empty()) continue;
            switch (asked ? QUESTION : obey(text)) {
                case DONE: continue;
                case EXIT: ended = true; continue;
                case QUESTION: {
                    json before = messages;
                    messages.push_back({{"role", "user"}, {"content", std::exchange(files, "") + text}});
                    status = answered(before);
                    break;
                }
                case AGAIN: {
                    json before = messages;
                    messages.erase(messages.size() - 1);
                    status = answered(before);
                    break;
                }
            }
            ended = context.params.single_turn;
        }
        ui::show_message("");
        return context.params.single_turn ? status : 0;
    }

  private:
    enum meaning { DONE, EXIT, QUESTION, AGAIN };

    cli_context & context;
    const std::string & sampling;
    json messages;
    std::string files;  // their texts, for the next question
    bool asked = false; // the last text is the user's prompt from outside, where nothing is a command
    bool noted = false; // that the context is nearly full

    void forget() {
        messages = json::array();
        files.clear();
        noted = false;
        if (!context.params.system_prompt.empty()) {
            messages.push_back({{"role", "system"}, {"content", context.params.system_prompt}});
        }
    }

    std::string input() {
        ui::user_turn user;
        asked = !context.params.prompt.empty();
        if (!asked) {
            cli_context::interrupted() = false; // Ctrl+C just behind an answer is not for the next question
            return user.read_input(context.params.multiline_input);
        }
        std::string prompt = std::exchange(context.params.prompt, ""); // only once
        user.echo(prompt);
        return prompt;
    }

    // Do what a text says if it is a command.
    meaning obey(const std::string & text) {
        std::string argument;
        const command * found = command_in(text, argument);
        if (found == nullptr || argument.find('\n') != std::string::npos) {
            if (!like_command(text)) return QUESTION;
            ui::show_message(text + " is not a command; /help lists them. To ask it, put a blank before it.");
            return DONE;
        }
        std::string name = found->name;
        if (found->argument[0] != '\0' && argument.empty()) {
            ui::show_message(name + " takes an argument: " + name + " " + found->argument);
        } else if (name == "/exit") {
            return EXIT;
        } else if (name == "/help") {
            help();
        } else if (name == "/clear") {
            forget();
            ui::show_message("Chat history cleared.");
        } else if (name == "/read") {
            add_file(argument);
        } else if (name == "/glob") {
            add_files(argument);
        } else if (messages.empty() || messages.back().value("role", "") != "assistant") {
            ui::show_error("No message to regenerate.");
        } else {
            return AGAIN;
        }
        return DONE;
    }

    void add_file(const std::string & name) {
        std::ifstream file(name, std::ios::binary);
        std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        if (!file) {
            ui::show_error("file does not exist or cannot be opened: '" + name + "'");
            return;
        }
        files += "--- File: " + name + " ---\n" + content;
        ui::show_message("Loaded text from '" + name + "'");
    }

    // By upstream's own matcher, for which ** is any folders.
    void add_files(const std::string & pattern) {
        namespace fs = std::filesystem;
        size_t slash = pattern.substr(0, pattern.find_first_of("*?[")).rfind('/');
        std::string top = slash == std::string::npos ? "./" : pattern.substr(0, slash + 1);
        size_t own = slash == std::string::npos ? 0 : top.size(); // of a name's beginning, that the pattern has as well
        auto depth = std::count(pattern.begin() + static_cast<long>(own), pattern.end(), '/');
        bool any_depth = pattern.find("**") != std::string::npos;
        std::vector<std::string> found;
        std::error_code error, ignored;
        auto each = fs::recursive_directory_iterator(top, fs::directory_options::skip_permission_denied, error);
        for (; !error && each != fs::end(each); each.increment(error)) {
            if (!any_depth && each.depth() >= depth) each.disable_recursion_pending();
            std::string name = pattern.substr(0, own) + each->path().string().substr(top.size());
            if (each->is_regular_file(ignored) && glob_match(pattern, name)) found.push_back(name);
        }
        std::sort(found.begin(), found.end());
        if (found.size() > MOST_FILES) {
            ui::show_error(string_format("Maximum number of globbed files allowed (%zu) reached.", MOST_FILES));
            found.resize(MOST_FILES);
        }
        for (const std::string & name : found) add_file(name);
        if (found.empty()) {
            ui::show_error("no file is like '" + pattern + "'");
        }
    }

    // Have the last question answered, and say how that ended; returns the exit status if nothing else follows. A question
    // without an answer would be in the way of all others: then the messages are again as they were before.
    int answered(const json & before) {
        answer result = ask();
        if (result.finish.empty() && result.content.empty()) {
            messages = before;
        } else {
            json message = {{"role", "assistant"}, {"content", result.content}};
            if (!result.reasoning.empty()) {
                message["reasoning_content"] = result.reasoning;
            }
            messages.push_back(message);
        }
        if (!result.refusal.empty()) return refused(result);
        if (context.params.show_timings) {
            const char * format = "\n[ Prompt: %.1f t/s | Generation: %.1f t/s ]";
            ui::show_info(string_format(format, result.prompt_speed, result.speed));
        }
        return ended(result);
    }

    answer ask() {
        // With the progress something comes while the question is evaluated, and Ctrl+C is seen then.
        json body = {
            {"messages", messages}, {"stream", true}, {"timings_per_token", true}, {"return_progress", true}};
        answer result;
        ui::assistant_turn turn;
        auto add = [&](const json & delta, const char * name, ui::assistant_display_mode mode, std::string & whole) {
            std::string text = delta.contains(name) && delta.at(name).is_string() ? delta.at(name).get<std::string>() : "";
            if (!text.empty()) {
                whole += text;
                turn.push(mode, text);
            }
        };
        auto take = [&](const std::string & payload) {
            json chunk = json::parse_no_throw(payload);
            if (chunk.is_discarded() || chunk.contains("error")) {
                result.refusal = chunk.is_discarded() ? "" : payload;
                return;
            }
            if (chunk.contains("timings")) {
                const json & times = chunk.at("timings");
                result.prompt_speed = times.value("prompt_per_second", 0.0);
                result.speed = times.value("predicted_per_second", 0.0);
                result.written = times.value("predicted_n", 0L);
                result.used = times.value("cache_n", 0L) + times.value("prompt_n", 0L) + result.written;
            }
            if (!chunk.contains("choices") || !chunk.at("choices").is_array() || chunk.at("choices").empty()) return;
            const json & choice = chunk.at("choices").at(0);
            if (choice.contains("finish_reason") && choice.at("finish_reason").is_string()) {
                result.finish = choice.at("finish_reason").get<std::string>();
            }
            if (choice.contains("delta")) {
                const json & delta = choice.at("delta");
                add(delta, "reasoning_content", ui::ASSISTANT_DISPLAY_MODE_REASONING, result.reasoning);
                add(delta, "content", ui::ASSISTANT_DISPLAY_MODE_CONTENT, result.content);
            }
        };
        auto stop = [] { return cli_context::interrupted().load(); };
        std::string fields = "{" + sampling + body.dump_safe().substr(1);
        std::string refusal = context.client.post_sse("/v1/chat/completions", fields, stop, take);
        cli_context::interrupted() = false;
        if (!refusal.empty()) {
            result.refusal = refusal;
        }
        return result;
    }

    // ---- How it ended

    // Say what the server refused, or could not finish.
    int refused(const answer & result) {
        json whole = json::parse_no_throw(result.refusal);
        bool known = whole.is_object() && whole.contains("error") && whole.at("error").is_object();
        const json error = known ? whole.at("error") : json::object();
        if (error.value("type", "") != "exceed_context_size_error") {
            ui::show_error(in_a_line(error.value("message", result.refusal.c_str())));
            return 1;
        }
        long tokens = error.value("n_prompt_tokens", 0L), size = error.value("n_ctx", 0L), most = largest(context);
        std::string numbers = string_format("%ld tokens, and the context has %ld", tokens, size);
        if (context.params.single_turn) {
            std::string remedy = most > 0 && tokens >= most
                ? "Shorten it: the model's largest context has " + std::to_string(most)
                : "Set " + context_for(context, tokens) + ", or shorten the prompt";
            return fails(TOO_LONG, "it has " + numbers, remedy);
        }
        std::string remedy = most > 0 && tokens >= most ? "Shorten it, or begin anew with /clear"
                                                        : context_for(context, tokens) + " would have room for it, and so may /clear";
        ui::show_error("the message is too long: with the chat before, it has " + numbers + ". It was dropped. " + remedy);
        return 0;
    }

    // A template's error comes with a picture of the place, and the reason in the last line.
    std::string in_a_line(const std::string & error) {
        size_t reason = error.rfind("Jinja Exception: ");
        if (reason == std::string::npos) return error;
        const std::string & given = context.params.chat_template; // a name, or the text of one
        bool named = given.find_first_of("{\n") == std::string::npos;
        std::string name = given.empty() ? "the model's chat template"
                         : named         ? "the chat template " + given
                                         : "your chat template";
        std::string remedy = given.empty() ? "Set another with --chat-template in LLAMA_ARGS=, or leave SYSTEM= out"
                                           : "Change --chat-template in LLAMA_ARGS=, or leave it out";
        std::string text = error.substr(error.find(": ", reason) + 2);
        std::replace(text.begin(), text.end(), '\n', ' ');
        return name + " can't be applied: " + string_strip(text) + ". " + remedy;
    }

    // Say that an answer was cut off, or that the next one may be.
    int ended(const answer & result) {
        if (result.finish != "length") {
            if (context.params.single_turn || noted || result.used == 0) return 0;
            long size = context_size(context);
            if (size > 0 && static_cast<double>(result.used) >= NEARLY_FULL * static_cast<double>(size)) {
                noted = true;
                long percent = 100 * result.used / size;
                ui::show_info(string_format("[ %ld %% of the context is used: /clear begins anew ]", percent));
            }
            return 0;
        }
        long size = context_size(context);
        bool full = size > 0 && result.used + 2 >= size; // the last token is not evaluated, and one more has no room
        if (!context.params.single_turn) {
            ui::show_info(full ? string_format("[ Cut off: the context of %ld tokens is full. /clear begins anew ]", size)
                               : string_format("[ Cut off: -n allows %ld tokens ]", result.written));
            return 0;
        }
        if (!full) {
            std::string why = string_format("-n allows %ld tokens", result.written);
            return fails(CUT_OFF, why, "Set a larger -n in LLAMA_ARGS=, or leave it out");
        }
        long most = largest(context);
        bool no_larger = most > 0 && size >= most;
        return fails(CUT_OFF, string_format("the context of %ld tokens is full", size),
            no_larger ? "The model has no larger one: shorten the prompt, or ask for less"
                      : "Set a larger CTX=, such as " + context_for(context, 2 * size * 4 / 5));
    }
};

} // namespace

int talk(cli_context & context, const std::string & sampling) {
    return conversation(context, sampling).run();
}
