/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that runs the storage VM (--storage-vm): it starts the command, and starts it again
 * whenever it ended other than by a clean power-off (status 0), but only when the old process is
 * gone: two of them would write to the same memory. It is forked before the keeper locks itself in,
 * because QEMU needs what the keeper gives up; it talks to nobody, and ends, with the storage VM,
 * when the keeper closes the socket between them or dies. Its own exit status is the storage VM's.
 */
#include "bridge.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GRACE_MS 10000 /* from SIGTERM to SIGKILL */
#define QUICK    5

static int signals;

static pid_t start(void)
{
    pid_t me = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == me) {
        execvp(config.storage_vm[0], config.storage_vm);
        say("%s: %s", config.storage_vm[0], strerror(errno));
    }
    _exit(127);
}

/* Until the keeper hangs up or the child ended, `ms` at most (-1: for ever). True: it ended. */
static bool ended(int keeper, pid_t pid, int *status, int ms)
{
    for (;;) {
        struct signalfd_siginfo info;
        struct pollfd p[2] = {{.fd = signals, .events = POLLIN}, {.fd = keeper, .events = POLLIN}};
        if (waitpid(pid, status, WNOHANG) == pid)
            return true;
        int n = poll(p, keeper < 0 ? 1 : 2, ms);
        if (n == 0 || (n > 0 && p[1].revents))
            return false;
        if (n > 0 && p[0].revents && read(signals, &info, sizeof(info)) < 0)
            return false;
    }
}

static noreturn void finish(pid_t pid)
{
    int status;
    kill(pid, SIGTERM);
    if (!ended(-1, pid, &status, GRACE_MS)) {
        say("the storage VM does not end: SIGKILL");
        kill(pid, SIGKILL);
    }
    _exit(0);
}

static void say_why(int status)
{
    if (WIFSIGNALED(status))
        say("storage VM died (signal %d), starting it again", WTERMSIG(status));
    else
        say("storage VM ended (status %d), starting it again", WEXITSTATUS(status));
}

/* After QUICK lives of less than two seconds in a row: half a second. */
static void no_storm(int keeper, time_t lived)
{
    static unsigned quick;
    struct pollfd p = {.fd = keeper, .events = POLLIN};
    quick = lived < 2 ? quick + 1 : 0;
    if (quick > QUICK && poll(&p, 1, 500) > 0)
        _exit(0);
}

static noreturn void run(int keeper)
{
    for (;;) {
        int status;
        time_t began = time(NULL);
        pid_t pid = start();
        if (pid < 0)
            die("fork: %s", strerror(errno));
        if (!ended(keeper, pid, &status, -1))
            finish(pid);
        if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 127))
            _exit(WEXITSTATUS(status));
        say_why(status);
        no_storm(keeper, time(NULL) - began);
    }
}

static noreturn void child(int keeper, pid_t parent)
{
    char go;
    sigset_t set;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* of a terminal: the keeper's to handle */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signals = signalfd(-1, &set, SFD_CLOEXEC);
    if (getppid() != parent || signals < 0 || read(keeper, &go, 1) != 1)
        _exit(1);
    run(keeper);
}

int storage_vm_prepare(void)
{
    int pair[2];
    pid_t me = getpid();
    if (!config.storage_vm)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        die("socketpair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid == 0) {
        close(pair[0]);
        child(pair[1], me);
    }
    close(pair[1]);
    return pair[0];
}

void storage_vm_go(int fd)
{
    if (write(fd, "", 1) != 1)
        die("the storage VM's process is gone");
}
