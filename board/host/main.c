/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host form: one Linux process with the firmware's words as its arguments, and the
 * subcommands `nbd`, which speaks qemu-nbd's letters, and `create` and `check`, which speak qemu-img's.
 * --pidfile and --daemonize are the process's own and are taken out before the rest is applied.
 * With --daemonize the parent leaves when the child is ready, or with the child's status when it
 * fails before.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "board/host/host.h"
#include "board/main.h"
#include "control/control.h"
#include "kernel/command.h"
#include "kernel/kernel.h"
#include "kernel/version.h"

static struct {
    char **argv;
    int argc;
    const char *pidfile;
    bool daemonize;
    int ready_fd; /* the parent waits on the other end; -1: nobody does */
} process = {.ready_fd = -1};

static void remove_pidfile(void)
{
    unlink(process.pidfile);
}

/* Stays open and locked as long as we live, so that another one cannot take it. */
static int write_pidfile(struct error *err)
{
    int fd = open(process.pidfile, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_set(err, SR_EIO, "cannot create PID file: %s", strerror(errno));
    if (lockf(fd, F_TLOCK, 0)) {
        close(fd);
        return error_set(err, SR_EBUSY, "cannot create PID file: Cannot lock pid file");
    }
    if (ftruncate(fd, 0) || dprintf(fd, "%d\n", (int)getpid()) < 0) {
        close(fd);
        return error_set(err, SR_EIO, "cannot create PID file: %s", strerror(errno));
    }
    atexit(remove_pidfile);
    return 0;
}

/* The last start hook: tell whoever waits for us. */
static int co_announce(struct error *err)
{
    int rc = process.pidfile ? write_pidfile(err) : 0;
    if (!rc && process.ready_fd >= 0) {
        if (write(process.ready_fd, "1", 1) != 1)
            return error_set(err, SR_EIO, "the parent process is gone");
        close(process.ready_fd);
        int null = open("/dev/null", O_RDWR);
        for (int fd = 0; null >= 0 && fd < 2; fd++)
            dup2(null, fd);
    }
    return rc;
}
static const struct start_hook hook_announce = {
    .name = "process",
    .order = START_LISTEN + 100,
    .co_run = co_announce,
};
REGISTER(start_hook, hook_announce);

/* Leaves in the parent: 0 when the child said that it is ready, else the child's status. */
static void daemonize(void)
{
    int fds[2];
    if (pipe(fds)) {
        perror("strongroom: pipe");
        exit(1);
    }
    pid_t pid = fork();
    if (pid < 0) {
        perror("strongroom: fork");
        exit(1);
    }
    if (!pid) {
        close(fds[0]);
        process.ready_fd = fds[1];
        setsid();
        return;
    }
    char byte;
    int status = 0;
    close(fds[1]);
    if (read(fds[0], &byte, 1) == 1)
        _exit(0);
    waitpid(pid, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Takes the process's own words out of argv. */
static void own_words(int *argc, char **argv)
{
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        if (!strcmp(argv[i], "--daemonize"))
            process.daemonize = true;
        else if (!strcmp(argv[i], "--pidfile") && i + 1 < *argc)
            process.pidfile = argv[++i];
        else if (!strncmp(argv[i], "--pidfile=", 10))
            process.pidfile = argv[i] + 10;
        else
            argv[n++] = argv[i];
    }
    *argc = n;
    argv[n] = NULL;
}

static int co_configure(void *ctx, bool *configured)
{
    (void)ctx;
    *configured = true; /* a process without options serves nothing; it never guesses */
    return co_control_apply_argv(process.argc, process.argv);
}

static void quit_signal(void)
{
    log_line("host", "signal: leaving");
    system_quit();
}

static int usage(int status)
{
    FILE *f = status ? stderr : stdout;
    fprintf(f,
            "usage: strongroom --blockdev ... --nbd-server ... --export ... [--pidfile P] "
            "[--daemonize]\n"
            "       strongroom nbd [-f FMT] [-r] [-k SOCK | -b ADDR -p PORT] [-x NAME] [-e N] "
            "[-t] FILE\n"
            "       strongroom create [-f FMT] [-o NAME=VALUE,...] [-b BACKING -F FMT] [-u] [-q] "
            "FILE [SIZE]\n"
            "       strongroom check [-f FMT] [-r leaks|all] [--output=human|json] [-q] FILE\n"
            "       strongroom --help | --version\n");
    return status;
}

int main(int argc, char **argv)
{
    process.argv = argv + 1;
    process.argc = argc - 1;
    if (argc < 2)
        return usage(3);
    if (!strcmp(argv[1], "--version"))
        return printf("strongroom %s\n", STRONGROOM_VERSION) < 0;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
        return usage(0) ?: control_print_help(argc > 2 ? argv[2] : NULL);
    if (!strcmp(argv[1], "--print-pools")) { /* for `make size` */
        board_init();
        strongroom_memory();
        pools_print();
        return 0;
    }
    if (!strcmp(argv[1], "create"))
        return create_subcommand(argc - 1, argv + 1);
    if (!strcmp(argv[1], "check"))
        return check_subcommand(argc - 1, argv + 1);
    if (!strcmp(argv[1], "nbd")) {
        int rc = nbd_subcommand(argc - 1, argv + 1, &process.argc, &process.argv);
        if (rc >= 0)
            return rc;
    }
    own_words(&process.argc, process.argv);
    if (process.daemonize)
        daemonize();
    board_quit_hook = quit_signal;
    signal(SIGPIPE, SIG_IGN);
    board_init();
    strongroom_run(co_configure, NULL);
}
