// A chat without a model, for llama/console.cpp: the calls of llama/talk.cpp and upstream's tools/cli, in their order.
//
//   console-driver [simple-io] [colour] [multiline] [spin] [fail] [preset] [answer] [slow] [deaf] [late] [error]
//
// spin: load for $BUSY seconds; fail: and then don't find a model; preset: one question of its own, and the end;
// answer: answer each question; slow: in $BUSY seconds; deaf: no Ctrl+C shortens that; late: the prompt comes $BUSY
// seconds after it; error: end each turn with one.
// Each message that was read is told on file descriptor 3 as "got HEX"; at the end "end", after Ctrl+C "interrupted".
#include "console.h"
#include "log.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

// In place of log.cpp: nothing is logged here.
common_log * common_log_main() { return nullptr; }
void common_log_flush(common_log *) {}

#include "cli-ui.h" // upstream's, so that the calls are upstream's

static std::atomic<bool> interrupted = false;

static void on_signal(int) { // as cli.cpp
    if (interrupted) {
        fprintf(stdout, "\033[0m\n");
        fflush(stdout);
        std::exit(130);
    }
    interrupted = true;
}

static void tell(const std::string & what, const std::string & bytes = "") {
    std::string line = what;
    for (unsigned char byte : bytes) {
        char hex[3];
        snprintf(hex, sizeof hex, "%02x", byte);
        line += hex;
    }
    line += '\n';
    (void) !write(3, line.data(), line.size());
}

static void be_busy(bool deaf) {
    unsigned left = atoi(getenv("BUSY"));
    do {
        left = sleep(left);
    } while (deaf && left > 0);
}

static void answer(bool slow, bool deaf) {
    ui::assistant_turn turn;
    turn.push(ui::ASSISTANT_DISPLAY_MODE_REASONING, "a thought");
    if (slow) {
        if (!isatty(STDOUT_FILENO)) fputs("thinking\n", stderr);
        be_busy(deaf);
    }
    if (!interrupted) {
        turn.push(ui::ASSISTANT_DISPLAY_MODE_CONTENT, "the answer\x1b[31m\x07\x9b\u009b\x7f is 4");
    }
    interrupted = false;
}

int main(int argc, char ** argv) {
    std::set<std::string> options(argv + 1, argv + argc);
    auto given = [&](const char * option) { return options.count(option) > 0; };

    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);

    console::init(given("simple-io"), given("colour"));
    atexit([] { console::cleanup(); });
    console::set_completion_callback(auto_completion_callback);
    {
        ui::spinner spinner("\n\nLoading model...");
        if (given("spin")) {
            be_busy(true);
        }
        if (given("fail")) {
            ui::show_error("no model", "try another");
            return 1;
        }
    }
    bool preset = given("preset");
    for (;;) {
        std::string message;
        {
            ui::user_turn turn;
            if (preset) {
                turn.echo(message = "preset question");
            } else {
                interrupted = false;
                message = turn.read_input(given("multiline"));
            }
        }
        if (interrupted) {
            interrupted = false;
            tell("interrupted");
            break;
        }
        if (message.empty()) {
            tell("end");
            break;
        }
        tell("got ", message);
        if (message == "/exit\n") {
            break;
        }
        if (given("answer")) {
            answer(given("slow"), given("deaf"));
        }
        if (given("error")) {
            ui::show_error("the context is full");
        }
        if (given("answer")) {
            ui::show_info("\n[ Prompt: 1.0 t/s ]");
            if (given("late")) {
                be_busy(true);
            }
        }
        if (preset) {
            break;
        }
    }
    ui::show_message("");
    return 0;
}
