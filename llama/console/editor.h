// A line editor for many lines, drawn anew as a whole after each change as linenoise does it.
#pragma once

#include "console.h"
#include "text.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>

#include <climits>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

namespace {

std::atomic<bool> clears_line = false; // Ctrl+C clears what is typed, instead of ending the chat

// What is on the terminal and has to be taken back at exit(), which may run in a signal handler.
std::atomic<bool> bracketed_paste = false; // it was asked to mark pastes
std::atomic<bool> spinner_drawn = false;

std::atomic<bool> chat_began = false; // the model is loaded; upstream's logo and list of commands are over

constexpr std::string_view ERASE_LINE = "\r\x1b[K";

// ---- Signals, and keys that are no characters

enum { // keys that are no characters
    END = -1, NONE = -2, LEFT = -3, RIGHT = -4, UP = -5, DOWN = -6, HOME = -7, LINE_END = -8, DELETE = -9,
    WORD_LEFT = -10, WORD_RIGHT = -11, NEW_LINE = -12, PASTE = -13, CLEAR = -14
};
constexpr int ESC = 0x1b;
constexpr int AFTER_ESC = 50;     // ms: then it was the Esc key
constexpr int IN_SEQUENCE = 1000; // ms: nobody types the beginning of a sequence, but a slow line may tear it
constexpr int ctrl(char letter) { return letter - '@'; }

int signal_pipe[2] = {-1, -1};
struct sigaction previous_int, previous_term;

void on_signal(int number) {
    int error = errno;
    bool clears = number == SIGINT && clears_line;
    char what = number == SIGWINCH ? 'w' : clears ? 'c' : 'i';
    (void) !write(signal_pipe[1], &what, 1);
    if (number != SIGWINCH && !clears) {
        if (!chat_began) { // upstream would wait for its server, which does not stop while it loads
            emit(spinner_drawn ? ERASE_LINE : "");
            console::cleanup();
            _exit(130);
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

struct signals {
    int ends = 0; // how often Ctrl+C was pressed, or the end demanded
    bool clears = false;
};

signals taken_signals() { // empties the pipe
    char bytes[64];
    signals found;
    for (ssize_t count; (count = read(signal_pipe[0], bytes, sizeof bytes)) > 0;) {
        found.ends += static_cast<int>(std::count(bytes, bytes + count, 'i'));
        found.clears = found.clears || memchr(bytes, 'c', count) != nullptr;
    }
    return found;
}

int interrupted() { // empties the pipe; returns END, CLEAR or NONE
    signals found = taken_signals();
    return found.ends > 0 ? END : found.clears ? CLEAR : NONE;
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
    // From a text and a place in it to texts that complete it, each with the cursor's new place.
    std::function<std::vector<std::pair<std::string, size_t>>(std::string_view, size_t)> complete;

    // A turn of the user begins. Ctrl+C before was for the answer, and takes what was typed ahead, as the kernel does; a
    // second one is for the chat. Returns whether there was one.
    bool begin_turn() {
        signals before = taken_signals();
        if (before.ends > 0 || before.clears) {
            input.clear();
            used = 0;
        }
        return before.ends > 1;
    }

    // Returns whether the text was submitted, not ended by Ctrl+C or Ctrl+D on an empty one, or the terminal's end.
    bool read(const std::string & shown_prompt, std::string & line) {
        text.clear();
        cursor = top = 0;
        prompt = shown_prompt;
        layout shown = lay_out(prompt, std::string::npos, window().ws_col);
        drawn_row = shown.rows.size() - 1;
        versions = history;
        versions.emplace_back();
        version = history.size();
        bracketed_paste = true;
        emit("\x1b[?2004h");
        dirty = true;
        bool submitted = edit();
        clears_line = false;
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
                int key = interrupted();
                if (key != NONE) return key;
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
            default: return ending(c);
        }
    }

    static int ending(int key) { return key == END || key == CLEAR ? key : NONE; }

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
                case 27: return is_enter(parameters) ? NEW_LINE : NONE;
                default: return NONE;
            }
        }
        if (c == 'u') return is_enter(parameters) ? NEW_LINE : NONE;
        std::string modifier = parameters.size() > 1 ? parameters.substr(parameters.size() - 2) : "";
        return cursor_key(c, modifier == ";5" || modifier == ";3");
    }

    // Enter with Shift, or with other such keys, from terminals that tell: 13;2 (kitty's way) or 27;2;13 (xterm's).
    static bool is_enter(const std::string & parameters) {
        size_t size = parameters.size();
        return parameters.compare(0, 3, "13;") == 0 ||
            (parameters.compare(0, 3, "27;") == 0 && size > 3 && parameters.compare(size - 3, 3, ";13") == 0);
    }

    static int cursor_key(int final, bool by_word) {
        switch (final) {
            case 'A': return UP;
            case 'B': return DOWN;
            case 'C': return by_word ? WORD_RIGHT : RIGHT;
            case 'D': return by_word ? WORD_LEFT : LEFT;
            case 'H': return HOME;
            case 'F': return LINE_END;
            default: return ending(final);
        }
    }

    bool edit() {
        for (;;) {
            clears_line = !text.empty();
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
            case CLEAR: cursor = 0; kill(0, text.size()); break;
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

} // namespace
