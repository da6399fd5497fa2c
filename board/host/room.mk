SRC_HOST += board/host/board.c board/host/uring.c board/host/backtrace.c
SRC_HOST += board/host/main.c
MAIN_HOST := board/host/main.c
