// A server in place of llama.cpp's, which tries what it must not be able to do.
//
// prisoner @FD: get connections over FD, as zosia's own. prisoner -H ADDRESS -p PORT: listen, as a server of the person's own.
// The first byte of a connection says what it gets: "e" an echo, "t" a line for each thing that is possible, and "h" nothing
// any more, nor any other connection: the server hangs.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for(int fd) {
    static uint64_t pulse;
    const char * number = getenv("ZOSIA_PULSE");
    struct pollfd one = {.fd = fd, .events = POLLIN};
    do {
        pulse++;
        if (number != NULL) {
            (void) !pwrite(atoi(number), &pulse, sizeof pulse, 0);
        }
    } while (poll(&one, 1, 50) == 0);
}

static int handed(int fd) {
    char byte;
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } given;
    struct iovec one = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &given, .msg_controllen = sizeof given};
    if (recvmsg(fd, &message, 0) != 1) {
        exit(3);
    }
    int found;
    memcpy(&found, CMSG_DATA(&given.header), sizeof found);
    return found;
}

static int to;

static void possible(const char * what, int is) {
    if (is) {
        dprintf(to, "%s\n", what);
    }
}

static int reaches(const char * path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path, path);
    return connect(fd, (struct sockaddr *) &address, sizeof address) == 0;
}

static int reaches_port(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return connect(fd, (struct sockaddr *) &address, sizeof address) == 0;
}

static int forks(void) {
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    possible("a shell", child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    return child > 0;
}

static void try_all(const char * secret, const char * path, int port) {
    struct stat found;
    possible("read", open(secret, O_RDONLY) >= 0);
    possible("write", open(secret, O_WRONLY) >= 0);
    possible("make", open("/tmp/prisoner", O_CREAT | O_WRONLY, 0600) >= 0 || mkdir("/tmp/prisoner", 0700) == 0);
    possible("chmod", chmod(secret, 0644) == 0);
    possible("look", open("/", O_RDONLY | O_DIRECTORY) >= 0);
    possible("passwd", open("/etc/passwd", O_RDONLY) >= 0);
    possible("stat", stat(secret, &found) == 0);
    possible("a UNIX socket", reaches(path));
    possible("a TCP port", reaches_port(port));
    possible("any UNIX socket", socket(AF_UNIX, SOCK_STREAM, 0) >= 0);
    possible("netlink", socket(AF_NETLINK, SOCK_RAW, 0) >= 0);
    possible("TCP", socket(AF_INET, SOCK_STREAM, 0) >= 0);
    possible("a signal", kill(getppid(), 0) == 0);
    possible("ptrace", ptrace(PTRACE_SEIZE, getppid(), 0, 0) == 0);
    possible("a ring", syscall(SYS_io_uring_setup, 1, "") >= 0 || errno != EPERM);
    void * volatile memory = malloc((size_t) 3 << 30); // volatile, or no compiler would do it
    possible("memory", memory != NULL);
    void * shared = mmap(NULL, (size_t) 3 << 30, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    possible("shared memory", shared != MAP_FAILED);
    const char * number = getenv("ZOSIA_PULSE");
    signal(SIGXFSZ, SIG_IGN);
    possible("the disk", number != NULL && pwrite(atoi(number), "x", 1, 1 << 20) == 1);
    possible("a process", forks());
}

int main(int count, char ** words) {
    int source;
    if (count == 2 && words[1][0] == '@') {
        source = atoi(words[1] + 1);
        const char * begun = "speed 12345\nprompt\n";
        (void) !write(atoi(getenv("ZOSIA_STATUS")), begun, strlen(begun));
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[4]))};
        inet_pton(AF_INET, words[2], &address.sin_addr);
        source = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(source, (struct sockaddr *) &address, sizeof address) != 0 || listen(source, 1) != 0) {
            return 1;
        }
    }
    for (;;) {
        char word[500] = "", path[200] = "", secret[200] = "";
        int port = 0;
        wait_for(source);
        int fd = count == 2 ? handed(source) : accept(source, NULL, NULL);
        wait_for(fd);
        if (read(fd, word, 1) == 1 && *word == 'h') {
            for (;;) {
                sleep(1000);
            }
        } else if (*word == 't') {
            (void) !read(fd, word, sizeof word - 1);
            sscanf(word, "%199s %199s %d", secret, path, &port);
            to = fd;
            try_all(secret, path, port);
        } else if (*word == 'e') {
            for (ssize_t got; wait_for(fd), (got = read(fd, word, sizeof word)) > 0;) {
                (void) !write(fd, word, got);
            }
        } else if (*word == 'x') {
            fputs("the prisoner is tired\n", stderr);
            return 9;
        }
        close(fd);
    }
}
