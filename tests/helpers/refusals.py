"""What a command says of input that it refuses."""


def refusal_of(main, arguments, capsys):
    """Runs a command; asserts that it ends with status 2 and one line on stderr alone, which is returned."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    out, error = capsys.readouterr()
    assert status == 2 and out == ""
    assert error.startswith("error: ") and error.count("\n") == 1
    return error
