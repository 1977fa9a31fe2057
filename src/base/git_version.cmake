# Run at every build: writes OUTPUT from INPUT with the commit, touching it only when that changed.
set(QUADRAT_GIT_COMMIT unknown)
execute_process(COMMAND git -C "${SOURCE_DIR}" describe --always --dirty=+ --abbrev=12 --exclude=*
  OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(NOT failed AND described)
  set(QUADRAT_GIT_COMMIT "${described}")
endif()
configure_file("${INPUT}" "${OUTPUT}" @ONLY)
