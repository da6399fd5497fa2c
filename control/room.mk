SRC_ALL += control/json.c control/json_lex.c control/json_print.c
