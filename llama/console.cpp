// The terminal side of llama-cli, in place of upstream's common/console.cpp.
//
// Upstream's line editor moves its cursor with \b, which does not go back over a wrapped line in real terminals; it
// takes no notice of a resize, submits a paste at its first newline, and decorates an answer that goes into a pipe.
// This has three modes:
//
//   editing  a terminal: a multi-line editor, drawn anew as a whole after each change as linenoise does it
//   plain    simple_io, TERM=dumb, or no terminal to read from: the kernel's line editing and no escape sequences
//   piped    standard output is no terminal: it gets the answer alone, errors go to standard error, nothing is read
//
// Upstream's header is included: a changed signature stops the compiler. What is taken from upstream's tools/cli beyond
// the header is said where it is used.
#include "console.h"
#include "log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <clocale>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

enum class mode { editing, plain, piped };
mode current_mode = mode::plain;
bool colours = false;
display_type current_display = DISPLAY_TYPE_RESET;
bool chat_began = false; // upstream's logo and list of commands are over
bool error_shown = false;
std::atomic<bool> failed = false;          // an error was shown, or the answer could not be written
std::atomic<bool> restored = false;        // the terminal is as it was before init()
std::atomic<bool> bracketed_paste = false; // the terminal was asked to mark pastes
std::atomic<bool> spinner_drawn = false;
termios initial_state;
int signal_pipe[2] = {-1, -1};
struct sigaction previous_int, previous_term;

// exit() may run in a signal handler while these are in use: they are never destroyed.
std::string & last_line = *new std::string; // what the cursor's line shows; the prompt, when a line is about to be read
console::completion_callback & complete = *new console::completion_callback;

constexpr int FOREVER = -1; // for poll()

// ---- Output. No stdio: its locks may be held when a signal handler calls exit() and with it cleanup().

void emit(std::string_view text, int fd = STDOUT_FILENO) {
    while (!text.empty()) {
        ssize_t written = write(fd, text.data(), text.size());
        if (written >= 0) {
            text.remove_prefix(written);
        } else if (errno == EAGAIN) {
            pollfd room = {fd, POLLOUT, 0};
            poll(&room, 1, FOREVER);
        } else if (errno != EINTR) {
            failed = failed || fd == STDOUT_FILENO; // standard error may be closed
            return;
        }
    }
}

// ---- UTF-8. A character's width is wcwidth()'s: what most terminals go by.

constexpr size_t INVALID = -1, INCOMPLETE = -2; // as mbrtowc() says it
constexpr wchar_t ZERO_WIDTH_JOINER = 0x200d;

size_t decode(const std::string & text, size_t at, wchar_t & c) {
    std::mbstate_t state = {};
    size_t length = mbrtowc(&c, text.data() + at, text.size() - at, &state);
    return length == 0 ? 1 : length; // NUL is a character, too
}

bool is_control(wchar_t c) { return c < 0x20 || (c >= 0x7f && c < 0xa0); }

int width(wchar_t c) {
    bool emoji = (c >= 0x1f90c && c <= 0x1f9ff) || (c >= 0x1fa70 && c <= 0x1faff); // musl knows those of Unicode 12
    return emoji ? 2 : std::max(0, wcwidth(c));
}

// Text that can't drive the terminal: no control characters but newline and tab, nothing that is not UTF-8.
std::string clean(const std::string & text) {
    std::string kept;
    wchar_t c = 0;
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
        length = decode(text, at, c);
        if (length == INVALID || length == INCOMPLETE) {
            length = 1;
        } else if (!is_control(c) || c == '\n' || c == '\t') {
            kept.append(text, at, length);
        }
    }
    return kept;
}

// The end of what is one character to a person: a base character with what combines with it.
size_t next(const std::string & text, size_t at) {
    wchar_t before = 0, c = 0;
    while (at < text.size()) {
        size_t length = decode(text, at, c);
        bool skin_tone = c >= 0x1f3fb && c <= 0x1f3ff;
        bool joined = wcwidth(c) == 0 || skin_tone || before == ZERO_WIDTH_JOINER;
        if (before == '\n' || (before != 0 && (!joined || c == '\n'))) break;
        at += length;
        before = c;
    }
    return at;
}

size_t line_start(const std::string & text, size_t at) { return at == 0 ? 0 : text.rfind('\n', at - 1) + 1; }

size_t line_end(const std::string & text, size_t at) { return std::min(text.find('\n', at), text.size()); }

size_t previous(const std::string & text, size_t at) {
    size_t start = line_start(text, at);
    if (start == at) return at == 0 ? 0 : at - 1;
    for (size_t end = next(text, start); end < at; end = next(text, end)) {
        start = end;
    }
    return start;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

size_t word_left(const std::string & text, size_t at) {
    while (at > 0 && is_space(text[at - 1])) { at--; }
    while (at > 0 && !is_space(text[at - 1])) { at--; }
    return at;
}

size_t word_right(const std::string & text, size_t at) {
    while (at < text.size() && is_space(text[at])) { at++; }
    while (at < text.size() && !is_space(text[at])) { at++; }
    return at;
}

constexpr std::string_view ERASE_LINE = "\r\x1b[K";

// ---- Input: bytes, then keys

enum { // keys that are no characters
    END = -1, NONE = -2, LEFT = -3, RIGHT = -4, UP = -5, DOWN = -6, HOME = -7, LINE_END = -8, DELETE = -9,
    WORD_LEFT = -10, WORD_RIGHT = -11, NEW_LINE = -12, PASTE = -13
};
constexpr int ESC = 0x1b;
constexpr int AFTER_ESC = 50;     // ms: then it was the Esc key
constexpr int IN_SEQUENCE = 1000; // ms: nobody types the beginning of a sequence, but a slow line may tear it
constexpr int ctrl(char letter) { return letter - '@'; }

void on_signal(int number) {
    int error = errno;
    char what = number == SIGWINCH ? 'w' : 'i';
    (void) !write(signal_pipe[1], &what, 1);
    if (number != SIGWINCH) {
        if (spinner_drawn) {
            emit(ERASE_LINE); // now, as upstream's handler writes a newline before it exits
        }
        (number == SIGINT ? previous_int : previous_term).sa_handler(number);
    }
    errno = error;
}

// A pipe, since the signal may come before poll() or on another thread. SIGINT and SIGTERM still reach the handler that
// cli.cpp has set before it calls init().
void catch_signals() {
    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART; // an answer goes on; poll() is never restarted
    sigaction(SIGWINCH, &action, nullptr);
    for (auto [number, before] : {std::pair{SIGINT, &previous_int}, {SIGTERM, &previous_term}}) {
        sigaction(number, nullptr, before);
        if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
            action.sa_flags = before->sa_flags;
            sigaction(number, &action, nullptr);
        }
    }
}

bool interrupted() { // empties the pipe
    char signals[64];
    bool found = false;
    for (ssize_t count; (count = read(signal_pipe[0], signals, sizeof signals)) > 0;) {
        found = found || memchr(signals, 'i', count) != nullptr;
    }
    return found;
}

// ---- The editor

struct row {
    std::string text;
    bool wrapped; // the text goes on in the next row
};

struct layout {
    std::vector<row> rows = {{"", false}};
    size_t cursor_row = 0;
    int cursor_column = 0;
};

// Where a terminal of so many columns shows a text that begins in its first column.
layout lay_out(const std::string & text, size_t cursor, int columns) {
    layout result;
    int column = 0;
    for (size_t at = 0;;) {
        wchar_t c = 0;
        bool end = at == text.size();
        size_t length = end ? 0 : decode(text, at, c);
        int cells = end ? at == cursor : c == '\t' ? 1 : width(c); // a cursor behind the text needs a cell, too
        if (column + cells > columns) {
            result.rows.back().wrapped = true;
            result.rows.push_back({"", false});
            column = 0;
        }
        if (at == cursor) {
            result.cursor_row = result.rows.size() - 1;
            result.cursor_column = std::min(column, columns - 1);
        }
        if (end) return result;
        if (c == '\n') {
            result.rows.push_back({"", false});
            column = 0;
        } else if (c == '\t') {
            cells = std::min(8 - column % 8, columns - column);
            result.rows.back().text.append(cells, ' ');
            column += cells;
        } else {
            result.rows.back().text.append(text, at, length);
            column += cells;
        }
        at += length;
    }
}

class editor {
  public:
    // Returns whether the text was submitted, not ended by Ctrl+C, Ctrl+D or the terminal's end.
    bool read(std::string & line) {
        if (interrupted()) { // Ctrl+C before was for the answer; it takes what was typed ahead, as the kernel does
            input.clear();
            used = 0;
        }
        text.clear();
        cursor = top = 0;
        prompt = last_line;
        layout shown = lay_out(prompt, std::string::npos, window().ws_col);
        drawn_row = shown.rows.size() - 1;
        versions = history;
        versions.emplace_back();
        version = history.size();
        bracketed_paste = true;
        emit("\x1b[?2004h");
        dirty = true;
        bool submitted = edit();
        finish(submitted);
        bracketed_paste = false;
        if (submitted) {
            remember();
            line = text;
        }
        return submitted;
    }

  private:
    std::string prompt, text, killed;
    size_t cursor = 0;                          // in bytes of the text
    size_t top = 0;                             // first row of the text that is drawn
    size_t drawn_row = 0;                       // of the cursor, counted from the first row that is drawn
    bool dirty = false;                         // to be drawn
    std::vector<std::string> history, versions; // what was submitted; the same as edited since, and the new text
    size_t version = 0;
    std::string input; // read, of which `used` bytes were taken; stays for the next prompt
    size_t used = 0;

    static winsize window() {
        winsize size = {};
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        size.ws_col = size.ws_col == 0 ? 80 : std::max<unsigned short>(size.ws_col, 2);
        size.ws_row = size.ws_row == 0 ? 24 : size.ws_row;
        return size;
    }

    static std::string move(size_t count, char direction) {
        return count == 0 ? "" : "\x1b[" + std::to_string(count) + direction;
    }

    // Rows are ended by \r\n, not by the terminal's wrapping: terminals that rewrap on a resize then don't join them,
    // and `drawn_row` stays right, or too small; too large, and what is above would be overwritten.
    void draw() {
        dirty = false;
        winsize size = window();
        layout all = lay_out(prompt + text, prompt.size() + cursor, size.ws_col);
        size_t height = std::min<size_t>(size.ws_row, all.rows.size());
        top = std::min({top, all.cursor_row, all.rows.size() - height});
        top = std::max(top + height, all.cursor_row + 1) - height;
        std::string out = move(drawn_row, 'A') + "\r\x1b[J";
        for (size_t i = top; i < top + height; i++) {
            out += (i > top ? "\r\n" : "") + all.rows[i].text;
        }
        drawn_row = all.cursor_row - top;
        emit(out + move(height - 1 - drawn_row, 'A') + "\r" + move(all.cursor_column, 'C'));
    }

    // Leave the whole text on the screen, now with the terminal's own wrapping: so it is copied as it was typed.
    void finish(bool submitted) {
        std::string out = move(drawn_row, 'A') + "\r\x1b[J";
        layout all = lay_out(prompt + text, std::string::npos, window().ws_col);
        for (size_t i = 0; i < all.rows.size(); i++) {
            out += (i > 0 && !all.rows[i - 1].wrapped ? "\r\n" : "") + all.rows[i].text;
        }
        emit(out + (submitted ? "\r\n" : "") + "\x1b[?2004l");
    }

    // Draws when all that was typed is taken: a paste is drawn a few times, not once for each character.
    int next_byte(int timeout) {
        while (used == input.size()) {
            pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {signal_pipe[0], POLLIN, 0}};
            if (dirty && poll(ready, 2, 0) == 0) {
                draw();
            }
            int count = poll(ready, 2, timeout);
            if (count == 0) return NONE;
            if (count < 0) continue; // a signal: the pipe tells
            if (ready[1].revents != 0) {
                if (interrupted()) return END;
                dirty = true;
                continue;
            }
            char bytes[4096];
            ssize_t got = ::read(STDIN_FILENO, bytes, sizeof bytes);
            if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return END;
            input.assign(bytes, std::max<ssize_t>(got, 0));
            used = 0;
        }
        return static_cast<unsigned char>(input[used++]);
    }

    int read_key() {
        int c = next_byte(FOREVER);
        return c == ESC ? read_escape() : c < 0x80 ? c : read_character(c);
    }

    int read_character(int first) {
        std::string bytes(1, static_cast<char>(first));
        wchar_t c = 0;
        size_t length = 0;
        while ((length = decode(bytes, 0, c)) == INCOMPLETE) {
            int byte = next_byte(FOREVER);
            if (byte < 0) return byte;
            bytes += static_cast<char>(byte);
        }
        if (length != INVALID) return c;
        used -= bytes.size() > 1; // what broke it off may be a key
        return NONE;
    }

    int read_escape() {
        int c = next_byte(AFTER_ESC);
        switch (c) {
            case '[': return read_csi();
            case 'O': return cursor_key(next_byte(IN_SEQUENCE), false);
            case '\r':
            case '\n': return NEW_LINE;
            case 'b': return WORD_LEFT;
            case 'f': return WORD_RIGHT;
            case 0x7f: return ctrl('W');
            case ESC: used--; return NONE;
            default: return c == END ? END : NONE;
        }
    }

    int read_csi() {
        std::string parameters;
        int c = 0;
        while ((c = next_byte(IN_SEQUENCE)) >= 0x20 && c < 0x40) {
            parameters += static_cast<char>(c);
        }
        if (c >= 0 && (c < 0x40 || c > 0x7e)) { // broken off
            used--;
            return NONE;
        }
        if (c == '[') { // F1 to F5 of the Linux console
            next_byte(IN_SEQUENCE);
            return NONE;
        }
        if (c == '~') {
            switch (atoi(parameters.c_str())) {
                case 1: case 7: return HOME;
                case 4: case 8: return LINE_END;
                case 3: return DELETE;
                case 200: return PASTE;
                default: return NONE;
            }
        }
        std::string modifier = parameters.size() > 1 ? parameters.substr(parameters.size() - 2) : "";
        return cursor_key(c, modifier == ";5" || modifier == ";3");
    }

    static int cursor_key(int final, bool by_word) {
        switch (final) {
            case 'A': return UP;
            case 'B': return DOWN;
            case 'C': return by_word ? WORD_RIGHT : RIGHT;
            case 'D': return by_word ? WORD_LEFT : LEFT;
            case 'H': return HOME;
            case 'F': return LINE_END;
            default: return final == END ? END : NONE;
        }
    }

    bool edit() {
        for (;;) {
            int key = read_key();
            if (key == PASTE) {
                key = paste();
            }
            if (key == END || (key == ctrl('D') && text.empty())) return false;
            if (key == '\r' && !continue_line()) return true;
            if (key != NONE && key != '\r') {
                apply(key);
            }
            dirty = dirty || key != NONE;
        }
    }

    void apply(int key) {
        switch (key) {
            case LEFT: cursor = previous(text, cursor); break;
            case RIGHT: cursor = next(text, cursor); break;
            case WORD_LEFT: cursor = word_left(text, cursor); break;
            case WORD_RIGHT: cursor = word_right(text, cursor); break;
            case HOME: case ctrl('A'): cursor = line_start(text, cursor); break;
            case LINE_END: case ctrl('E'): cursor = line_end(text, cursor); break;
            case UP: up(); break;
            case DOWN: down(); break;
            case 0x7f: case ctrl('H'): erase(previous(text, cursor), cursor); break;
            case DELETE: case ctrl('D'): erase(cursor, next(text, cursor)); break;
            case ctrl('W'): kill(word_left(text, cursor), cursor); break;
            case ctrl('U'): kill(line_start(text, cursor), cursor); break;
            case ctrl('K'): kill(cursor, line_end(text, cursor)); break;
            case ctrl('Y'): insert(killed); break;
            case ctrl('L'): emit("\x1b[H\x1b[2J"); drawn_row = 0; break;
            case NEW_LINE: case ctrl('J'): insert("\n"); break;
            case '\t': tab(); break;
            default:
                if (key > 0 && !is_control(key)) {
                    char bytes[MB_LEN_MAX];
                    std::mbstate_t state = {};
                    insert({bytes, wcrtomb(bytes, key, &state)});
                }
        }
    }

    void insert(const std::string & what) {
        text.insert(cursor, what);
        cursor += what.size();
    }

    void erase(size_t from, size_t to) {
        text.erase(from, to - from);
        cursor = from;
    }

    void kill(size_t from, size_t to) {
        if (from < to) {
            killed = text.substr(from, to - from);
            erase(from, to);
        }
    }

    // Upstream's way to type a newline: a backslash at the end of the cursor's line, or of the text.
    bool continue_line() {
        for (size_t end : {line_end(text, cursor), text.size()}) {
            if (end > 0 && text[end - 1] == '\\') {
                text[end - 1] = '\n';
                cursor = end;
                return true;
            }
        }
        return false;
    }

    void tab() {
        if (complete) {
            for (const auto & [candidate, position] : complete(text, cursor)) {
                std::string completed = clean(candidate);
                if (completed != text) {
                    text = completed;
                    cursor = clean(candidate.substr(0, position)).size();
                    return;
                }
            }
        }
        insert("\t");
    }

    int paste() {
        static const std::string end = "\x1b[201~";
        std::string pasted;
        while (pasted.size() < end.size() || pasted.compare(pasted.size() - end.size(), end.size(), end) != 0) {
            int c = next_byte(FOREVER);
            if (c < 0) return c;
            pasted += static_cast<char>(c);
        }
        pasted.resize(pasted.size() - end.size());
        for (size_t at = 0; (at = pasted.find('\r', at)) != std::string::npos; at++) { // so terminals send a newline
            pasted.replace(at, pasted.compare(at, 2, "\r\n") == 0 ? 2 : 1, "\n");
        }
        insert(clean(pasted));
        dirty = true;
        return NONE;
    }

    void up() {
        size_t start = line_start(text, cursor);
        if (start > 0) {
            cursor = below(line_start(text, start - 1), start);
        } else if (version > 0) {
            show_version(version - 1);
        }
    }

    void down() {
        size_t end = line_end(text, cursor);
        if (end < text.size()) {
            cursor = below(end + 1, line_start(text, cursor));
        } else if (version + 1 < versions.size()) {
            show_version(version + 1);
        }
    }

    // The place in the line at `start` that is as far from its beginning as the cursor is from `own_start`.
    size_t below(size_t start, size_t own_start) const {
        int left = columns(own_start, cursor);
        size_t at = start, end = line_end(text, start);
        while (at < end && (left -= columns(at, next(text, at))) >= 0) {
            at = next(text, at);
        }
        return at;
    }

    int columns(size_t from, size_t to) const {
        wchar_t c = 0;
        int sum = 0;
        while (from < to) {
            from += decode(text, from, c);
            sum += width(c);
        }
        return sum;
    }

    void show_version(size_t other) {
        versions[version] = text;
        version = other;
        text = versions[version];
        cursor = text.size();
    }

    void remember() {
        if (!text.empty() && (history.empty() || history.back() != text)) {
            history.push_back(text);
        }
        if (history.size() > 200) {
            history.erase(history.begin());
        }
    }
};

editor & line_editor = *new editor;

// ---- Text

// A line for the host, over the file descriptor that /init has opened for it.
void tell(const std::string & line) {
    const char * number = getenv("ZOSIA_STATUS");
    char * end = nullptr;
    long fd = number == nullptr ? -1 : strtol(number, &end, 10);
    if (fd >= 0 && fd <= INT_MAX && end != number && *end == '\0') {
        (void) !write(static_cast<int>(fd), line.data(), line.size());
    }
}

// The host learns that the chat can begin: the model is loaded.
void begin_chat() {
    if (!std::exchange(chat_began, true)) {
        tell("prompt\n");
    }
}

std::string formatted(const char * format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    std::string text(std::max(0, vsnprintf(nullptr, 0, format, again)) + 1, '\0');
    va_end(again);
    vsnprintf(text.data(), text.size(), format, arguments);
    text.pop_back();
    return clean(text); // also what does not come from the model: a file's name, say
}

// Whether a piece of text is the model's answer. This relies on tools/cli/cli-ui.h: in no colour, after a user's turn,
// only assistant_turn::push() uses the format "%s" (messages are "%s\n", reasoning has its colour). The newline that
// ends an answer comes also when only a thought was ended, so it counts only if the answer's last line is open.
bool is_answer(const char * format, const std::string & text) {
    static bool open = false;
    if (!chat_began || current_display != DISPLAY_TYPE_RESET || text.empty()) return false;
    if (strcmp(format, "%s") == 0) {
        open = text.back() != '\n';
        return true;
    }
    return strcmp(format, "\n") == 0 && std::exchange(open, false);
}

void show(const std::string & text) {
    emit(text);
    size_t newline = text.rfind('\n');
    if (newline != std::string::npos) {
        last_line.clear();
    }
    last_line += text.substr(newline + 1);
}

// ---- The spinner: how much of the model's file is read

std::string size_name(double bytes) {
    char name[32];
    bool large = bytes >= 999.5e6;
    snprintf(name, sizeof name, large ? "%.1f GB" : "%.0f MB", bytes / (large ? 1e9 : 1e6));
    return name;
}

const char * environment(const char * name, const char * otherwise) {
    const char * value = getenv(name);
    return value == nullptr ? otherwise : value;
}

double model_size() { // 0: unknown
    std::error_code error;
    auto size = std::filesystem::file_size(environment("ZOSIA_MODEL", "/models/model.gguf"), error);
    return error ? 0 : static_cast<double>(size);
}

double bytes_read() { // -1: unknown
    std::ifstream stat(environment("ZOSIA_DISK_STAT", "/sys/block/vda/stat"));
    double requests = 0, merged = 0, sectors = 0;
    return stat >> requests >> merged >> sectors ? sectors * 512 : -1;
}

std::string progress(std::chrono::steady_clock::time_point start) {
    double size = model_size(), read = bytes_read();
    if (size > 0 && read >= 0) {
        int percent = static_cast<int>(std::min(100.0, 100 * read / size));
        return "loading " + size_name(size) + ": " + std::to_string(percent) + " %";
    }
    auto elapsed = std::chrono::steady_clock::now() - start;
    return "loading: " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(elapsed).count()) + " s";
}

// Never destroyed, as above; a thread that runs on at exit() would even end the program with abort().
std::thread * spinning = nullptr;
std::mutex & spinner_mutex = *new std::mutex;
std::condition_variable & spinner_stopped = *new std::condition_variable;

// A sign of life for the host, which ends a machine that gives none: only while something is read or computed.
void tell_progress() {
    static double told_bytes = -1;
    static clock_t told_time = 0;
    double bytes = bytes_read();
    clock_t time = clock(); // of all threads
    if (bytes != told_bytes || time - told_time > CLOCKS_PER_SEC / 5) {
        tell("loading " + std::to_string(static_cast<long>(std::max(0.0, bytes)) >> 20) + "\n");
        told_bytes = bytes;
        told_time = time;
    }
}

void spin() {
    auto start = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(spinner_mutex);
    int turn = 0;
    do {
        if (current_mode == mode::editing && !restored) {
            spinner_drawn = true;
            emit("\r" + progress(start) + "\x1b[K");
        }
        if (turn++ % 5 == 0) {
            tell_progress();
        }
    } while (!spinner_stopped.wait_for(lock, std::chrono::milliseconds(200), [] { return spinning == nullptr; }));
}

} // namespace

void console::spinner::start() {
    std::lock_guard<std::mutex> lock(spinner_mutex);
    if (spinning != nullptr) return;
    if (current_mode == mode::plain) {
        double size = model_size();
        emit("loading" + (size > 0 ? " " + size_name(size) : "") + "\n");
    }
    common_log_flush(common_log_main());
    spinning = new std::thread(spin);
}

void console::spinner::stop() {
    std::thread * ended = nullptr;
    {
        std::lock_guard<std::mutex> lock(spinner_mutex);
        ended = std::exchange(spinning, nullptr);
    }
    if (ended == nullptr) return;
    spinner_stopped.notify_all();
    ended->join();
    delete ended;
    if (spinner_drawn.exchange(false)) {
        emit(ERASE_LINE);
    }
}

// ---- What upstream calls

namespace console {

void init(bool use_simple_io, bool use_advanced_display) {
    setlocale(LC_ALL, "");
    setlocale(LC_CTYPE, "C.UTF-8"); // whatever LANG says: llama.cpp and the host's terminals know nothing else
    const char * terminal = getenv("TERM");
    bool capable = terminal != nullptr && terminal[0] != '\0' && strcmp(terminal, "dumb") != 0;
    if (!isatty(STDOUT_FILENO)) {
        current_mode = mode::piped;
    } else if (tcgetattr(STDIN_FILENO, &initial_state) == 0) {
        termios state = initial_state;
        if (use_simple_io || !capable) { // zosia's /init leaves the terminal without echo and lines
            state.c_lflag |= ICANON | ECHO | ISIG;
            state.c_iflag |= ICRNL;
            tcsetattr(STDIN_FILENO, TCSANOW, &state);
            return;
        }
        current_mode = mode::editing;
        colours = use_advanced_display;
        catch_signals();
        // Until cleanup(): what is typed during an answer is not echoed, and is there at the next prompt.
        state.c_lflag &= ~(ICANON | ECHO | IEXTEN);
        state.c_lflag |= ISIG;
        state.c_iflag &= ~(IXON | ICRNL);
        state.c_cc[VQUIT] = state.c_cc[VSUSP] = _POSIX_VDISABLE;
        state.c_cc[VMIN] = 1;
        state.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSANOW, &state);
    }
}

// Called by exit(), maybe in a signal handler while any other function here is at work: no lock, no allocation.
void cleanup() {
    if (current_mode == mode::piped && failed) {
        fflush(nullptr);
        _exit(1); // upstream ends with 0 after an error in an answer
    }
    if (current_mode != mode::editing || restored.exchange(true)) return;
    emit(bracketed_paste ? "\x1b[?2004l" : "");
    emit(colours ? "\x1b[0m" : "");
    tcsetattr(STDIN_FILENO, TCSANOW, &initial_state);
}

void set_display(display_type display) {
    if (display == DISPLAY_TYPE_USER_INPUT) {
        begin_chat();
    }
    if (display == current_display) return;
    current_display = display;
    if (colours) {
        common_log_flush(common_log_main()); // what others wrote before keeps its colour
        switch (display) {
            case DISPLAY_TYPE_RESET: emit("\x1b[0m"); break;
            case DISPLAY_TYPE_INFO: emit("\x1b[35m"); break;
            case DISPLAY_TYPE_PROMPT: emit("\x1b[33m"); break;
            case DISPLAY_TYPE_REASONING: emit("\x1b[90m"); break;
            case DISPLAY_TYPE_USER_INPUT: emit("\x1b[1m\x1b[32m"); break;
            case DISPLAY_TYPE_ERROR: emit("\x1b[1m\x1b[31m"); break;
        }
    }
}

bool readline(std::string & line, bool multiline_input) {
    begin_chat();
    line.clear();
    bool read = current_mode == mode::editing ? line_editor.read(line)
              : current_mode == mode::plain   ? static_cast<bool>(std::getline(std::cin, line))
                                              : false;
    if (!read) {
        line.clear();
        return false;
    }
    last_line.clear();
    // As upstream's readline_simple(); a backslash that the editor leaves is none that continues.
    if (!line.empty() && line.back() == '/' && multiline_input) {
        line.pop_back();
        multiline_input = false;
    } else if (!line.empty() && line.back() == '\\' && current_mode == mode::plain) {
        line.pop_back();
        multiline_input = !multiline_input;
    }
    line += '\n';
    return multiline_input;
}

void set_completion_callback(completion_callback callback) { complete = std::move(callback); }

void log(const char * format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string text = formatted(format, arguments);
    va_end(arguments);
    if (!chat_began && !error_shown) {
        return; // logo, list of commands, "Loading model..."
    }
    if (is_answer(format, text) || current_mode != mode::piped) {
        show(text == "\n\nExiting...\n" ? "\n" : text);
    }
}

void error(const char * format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::string text = formatted(format, arguments);
    va_end(arguments);
    error_shown = failed = true;
    display_type before = current_display;
    set_display(DISPLAY_TYPE_ERROR);
    if (current_mode == mode::piped) {
        emit(text, STDERR_FILENO);
    } else {
        show(text);
    }
    set_display(before);
}

void flush() {} // nothing is held back

} // namespace console
